// SPDX-License-Identifier: Apache-2.0

// Package crun finds the host's OCI runtime, crun or runc, and takes back a container that it made
// for a sandbox of class process whose shim is dead.
//
// It must not import containerd: host tools use it as well. All functions may be called at once.
package crun
