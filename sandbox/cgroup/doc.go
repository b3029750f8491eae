// SPDX-License-Identifier: Apache-2.0

// Package cgroup is where QEMU and its helpers are placed and limited on the host.
//
// A sandbox has one leaf beside where an engine would have put its container:
// under the parent of cgroupsPath, on cgroup v1, v2 and hybrid hosts, made by
// plain writes to the cgroup file systems. Its limits are the machine's, overhead
// included, never a container's own. The package must not know what runs in the
// leaf. A Group may be used by any number of goroutines.
//
// The program that lists devices on cgroup v2 is built and attached by containerd/cgroups/v3. The
// rest is written here because the library does something else: it sets controllers of one
// hierarchy, v1 or v2, while hybrid hosts have both and a limit must go where its controller is; it
// reports no limit that the kernel has no file for; it leaves a group half made on an error; and it
// has no kill that a pid given out again cannot misdirect.
//
// A start calls Leaf, which is pure, writes the leaf to the record, and then At, Create and Add.
// Whoever cleans up, perhaps another process after a crash, calls At with the leaf of the record,
// or Find where there is no record, and then Kill and Remove. Create, Add, Kill and Remove may be
// repeated.
package cgroup
