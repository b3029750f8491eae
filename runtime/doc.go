// SPDX-License-Identifier: Apache-2.0

// Package runtime holds the containers of one sandbox: state table, lifecycle
// and, in runtime/stdio, their streams.
//
// It translates containerd's task calls into calls to the guest and owns what
// a client may observe: states, exit statuses and the order of events. It knows
// neither QEMU nor labels; machines are reached through the sandbox alone. A
// Runtime may be used by any number of goroutines.
package runtime
