// SPDX-License-Identifier: Apache-2.0

// Package names is the engine's name server as the guest sees it: it listens on loopback, and the
// host answers.
//
// An engine's name server is at port 53 of 127.0.0.11 and takes that port from nobody, since rules
// of the namespace lead there. So it is here: the server has a port of its own, and a program at
// the root of all cgroups changes the port of who speaks to 53 at that very address. A container
// can have a server of its own on port 53.
//
// It must not know what a question asks, nor where the host gets the answer from. Serve is called
// once.
package names
