// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"

	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/vmm"
)

// The machine of a sandbox follows from the host's facts and the workload's size. Nothing is asked
// or started.
func ExampleMachine() {
	host := plan.Host{Accel: vmm.AccelKVM, Kernel: "/g/kernel", Initrd: "/g/initrd", Small: true}
	m, err := plan.Machine("default-one", host, "", oci.Size{MemoryMiB: 352, CPUs: 2}, plan.NICs([][4]byte{{1}, {2}}))
	if err != nil {
		panic(err)
	}
	fmt.Println(m.Type, m.Accel, m.MemoryMiB, m.CPUs, len(m.NICs))
	// Output: microvm kvm 352 2 2
}
