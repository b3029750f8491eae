// SPDX-License-Identifier: Apache-2.0

// Package reap collects the guest's dead processes, and starts the agent's own commands so that
// their ends are not lost to it.
//
// Process 1 gets every orphan of the guest. It must wait for all of them, also for children that
// os/exec would wait for; so every command of the agent goes through Monitor and none through
// exec.Cmd.Run. It must not know containers.
package reap
