// SPDX-License-Identifier: Apache-2.0

package vmm_test

import (
	"fmt"
	"strings"

	"cloister/vmm"
)

// A machine is a value: it can be built, copied and checked, and nothing runs.
func ExampleMachine_Validate() {
	m := vmm.Machine{Name: "one", Type: vmm.MicroVM, Kernel: "/boot/kernel", Initrd: "/boot/initrd", MemoryMiB: 8}
	fmt.Println(m.Validate())
	m.MemoryMiB = 256
	fmt.Println(m.Validate())
	// Output:
	// machine MemoryMiB 8: use 160 to 1048576
	// <nil>
}

// An open /dev/kvm is not enough: the CPU has to offer vmx or svm.
func ExampleChooseAccel() {
	accel, warning, err := vmm.ChooseAccel(vmm.AccelAuto, vmm.HostCPU{Arch: "amd64", Info: []byte("flags : fpu sse2\n")})
	fmt.Println(accel, err)
	fmt.Println(strings.TrimPrefix(warning, "guests are emulated (tcg) and slow: "))
	// Output:
	// tcg <nil>
	// /dev/kvm opens, but this CPU offers neither vmx nor svm
}
