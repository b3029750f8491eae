// SPDX-License-Identifier: Apache-2.0

// Package host gives a test a private place: mount, network, pid, ipc and uts namespaces of its own
// with an empty /run, and containerd daemons in it.
//
// When the test ends or dies, the kernel kills everything in the place and its mounts and links go
// with it. Several places may be used at once; one place's functions may be called at once.
package host
