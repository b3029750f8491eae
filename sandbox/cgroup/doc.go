// SPDX-License-Identifier: Apache-2.0

// Package cgroup is where QEMU and its helpers are placed and limited on the host.
//
// A sandbox has one leaf beside where an engine would have put its container:
// under the parent of cgroupsPath, on cgroup v1, v2 and hybrid hosts, made by
// plain writes to the cgroup file systems. Its limits are the machine's, overhead
// included, never a container's own. The package must not know what runs in the
// leaf. A Group may be used by any number of goroutines.
package cgroup
