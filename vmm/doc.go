// SPDX-License-Identifier: Apache-2.0

// Package vmm holds the pure values a machine is described with: Machine, Disk, Share, NIC and
// Console, and says by Validate whether they can be run.
//
// It knows nothing of processes, labels or containers, touches nothing of the host and compiles
// everywhere. Values are plain: anyone may copy them and call any method at once. A caller fills in
// a Machine, resolves its Accel with ChooseAccel, and hands it to package qemu, which runs it;
// nothing can be added to it there but disks.
package vmm
