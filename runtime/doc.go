// SPDX-License-Identifier: Apache-2.0

// Package runtime holds the containers of one sandbox: state table, lifecycle and, in
// runtime/stdio, their streams.
//
// It translates containerd's task calls into calls to the guest and owns what a client may observe:
// states, exit statuses and the order of events. It knows neither QEMU nor labels; machines are
// reached through the sandbox alone. A Runtime may be used by any number of goroutines.
//
// Main types: Runtime is one shim's, Ref names a process, State and Event are its life, Sandbox and
// Guest are what a started machine must be able to do. The shim makes one Runtime with New and
// calls a method for each call of containerd's Task API; the first Create starts the machine and
// the last Delete ends it. Nothing here is on disk: when a shim dies, its machine dies with it, and
// the sandbox's record says what to take back.
package runtime
