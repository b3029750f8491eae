// SPDX-License-Identifier: Apache-2.0

// Package nerdctl acts as nerdctl does: a client of containerd whose own program is the container's
// hooks, which make its network, and its logger. The program cannot be had through the module
// proxy; what it asks of a runtime can.
package nerdctl
