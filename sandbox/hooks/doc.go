// SPDX-License-Identifier: Apache-2.0

// Package hooks runs OCI hooks on the host.
//
// It must not know what a hook does or what a machine is: it is given programs
// and a state, and runs them in the runtime's namespaces. Any number of calls may
// run at once.
package hooks
