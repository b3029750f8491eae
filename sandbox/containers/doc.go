// SPDX-License-Identifier: Apache-2.0

// Package containers has the containers of one guest: it shows each one's files to the guest, and
// takes them away again.
//
// A container is planned (Planner), admitted by the MAC driver (Planned.Admit), and added to the
// guest (Set.Add). It knows nothing of how the guest was started and nothing of tasks. The methods
// of a Set may be called at once, those of a Planned may not.
//
// The first container is planned and admitted before the machine is made, so that a file that is
// refused costs no machine; later ones in Set.Add. Each container has an undo stack of its own,
// which Remove runs. The steps are the same whether the container ends, its start fails or the
// machine has gone. Nothing here is in the sandbox's record: mounts go with the shim's mount
// namespace, disks with QEMU, and labels have a journal of their own.
package containers
