// SPDX-License-Identifier: Apache-2.0

// Package hooks runs OCI hooks on the host.
//
// It must not know what a hook does or what a machine is: it is given programs
// and a state, and runs them in the runtime's namespaces. Any number of calls may
// run at once.
//
// Hooks are the engine's: nerdctl and Docker 20.10 make a container's network in them. A caller
// uses Run where a hook that fails must fail the container, and RunAll where it is too late for
// that.
package hooks
