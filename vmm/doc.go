// SPDX-License-Identifier: Apache-2.0

// Package vmm holds the pure values a machine is described with: Machine, Disk,
// Share, NIC and Console, and says by Validate whether they can be run.
//
// It knows nothing of processes, labels or containers, touches nothing of the
// host and compiles everywhere. Values are plain: anyone may copy them and call
// any method at once.
package vmm
