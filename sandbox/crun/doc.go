// SPDX-License-Identifier: Apache-2.0

// Package crun finds the host's OCI runtime, crun or runc, and takes back a container that it made
// for a sandbox of class process whose shim is dead.
//
// It must not import containerd: host tools use it as well. All functions may be called at once.
//
// Words also turns crun's errors into runc's, which clients look for; the agent uses it for the
// crun of a guest.
package crun
