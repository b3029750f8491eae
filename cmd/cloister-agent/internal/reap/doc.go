// SPDX-License-Identifier: Apache-2.0

// Package reap collects the guest's dead processes, and starts the agent's own
// commands so that their ends are not lost to it.
package reap
