// SPDX-License-Identifier: Apache-2.0

// Package bootstrap is how containerd starts, asks and cleans up the shim: argv, stdin and stdout
// of start, delete and -info, and the life of the daemon.
//
// It answers each containerd in the form that one reads: a plain address for 1.6, JSON of version 2
// for 1.7, JSON of version 3 for 2.0 to 2.2, and a protobuf BootstrapResult for 2.3 and later.
// containerd's own pkg/shim does only the last.
//
// The package knows nothing of containers or machines. Main is called once per process; the methods
// of Daemon may be called from any goroutine.
//
// Main types: Config is what a shim is, filled in by the program; Request is what containerd says
// in every invocation; Daemon is the process that serves. `start` is short: it finds the group's
// daemon or makes one, waits until that serves or says why it cannot, and prints the address.
// `delete` runs in a process of its own, also when the daemon is dead.
package bootstrap
