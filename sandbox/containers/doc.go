// SPDX-License-Identifier: Apache-2.0

// Package containers has the containers of one guest: it shows each one's files to the guest, and
// takes them away again.
//
// A container is planned (Planner), admitted by the MAC driver (Planned.Admit), and added to the
// guest (Set.Add). It knows nothing of how the guest was started and nothing of tasks. The methods
// of a Set may be called at once, those of a Planned may not.
package containers
