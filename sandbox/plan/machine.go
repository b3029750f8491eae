// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/vmm"
)

// ShareTag is the name by which the guest mounts the sandbox's share.
const ShareTag = "cloister"

// Host is what was found on the host.
type Host struct {
	Accel  vmm.Accel // resolved
	Kernel string
	Initrd string
	Small  bool // the guest kernel is the purpose-made one
	// Cmdline is what this kernel wants on its line beside what every one gets.
	Cmdline []string
	// HugePages is whether guests' memory is of huge pages.
	HugePages bool
	// NestedVirtualization and PerformanceCounters give the guest what vmm.Machine says of them.
	NestedVirtualization, PerformanceCounters bool
}

// Machine is the machine of a sandbox. wish is the configured board, empty for the one that suits
// the guest's kernel: a distribution's kernel finds no virtio-mmio device without ACPI. An error
// says which configuration cannot be met. The machine is validated, and its defaults are filled in,
// so that two plans can be compared.
func Machine(name string, h Host, wish vmm.MachineType, size oci.Size, nics []vmm.NIC) (vmm.Machine, error) {
	if wish == vmm.MicroVM && !h.Small {
		return vmm.Machine{},
			fmt.Errorf("machine.type = %q with a distribution's kernel, which finds no device there: use q35, or a guest "+
				"image built with --kernel=small: %w", wish, errdefs.ErrFailedPrecondition)
	}
	// Pages are of 2 MiB.
	if h.HugePages {
		size.MemoryMiB += size.MemoryMiB % 2
	}
	m := vmm.Machine{
		Name: name, Type: board(h, wish), Accel: h.Accel,
		CPUs: size.CPUs, MemoryMiB: size.MemoryMiB,
		Kernel: h.Kernel, Initrd: h.Initrd, Cmdline: slices.Concat(cmdline(board(h, wish)), emulated(h.Accel, size.CPUs), h.Cmdline),
		Balloon: true, HugePages: h.HugePages, Share: &vmm.Share{Tag: ShareTag}, NICs: nics,
		NestedVirtualization: h.NestedVirtualization, PerformanceCounters: h.PerformanceCounters,
	}.WithDefaults()
	return m, m.Validate()
}

func board(h Host, wish vmm.MachineType) vmm.MachineType {
	if wish != "" {
		return wish
	}
	if h.Small {
		return vmm.MicroVM
	}
	return vmm.Q35
}

// cmdline is the kernel's line: a panic ends the machine at once, and nothing is printed that is
// not a warning. The timer works: the kernel's test of it (check_timer) counts ticks against a loop
// of instructions, and panics when the host is too busy to deliver them.
func cmdline(board vmm.MachineType) []string {
	return append([]string{"console=ttyS0", "quiet", "panic=-1", "random.trust_cpu=on", "no_timer_check"}, board.KernelParameters()...)
}

// emulated is for a guest whose instructions are translated, and nothing for others. QEMU keeps
// translated code by address and drops a page's when something is written to it: so programs have
// the same addresses each time they are started (norandmaps), and lock prefixes stay when there is
// one processor (noreplace-smp). Without nolapic_timer the kernel watches its timer for a fifth of
// a second (calibrate_APIC_clock); several processors each need theirs. QEMU does not see what the
// file server writes into the guest's memory, and would go on with the code that a page held
// before: each page is written to by the guest first, when it is allocated (init_on_alloc).
func emulated(accel vmm.Accel, cpus int) []string {
	if accel != vmm.AccelTCG {
		return nil
	}
	line := []string{"norandmaps", "noreplace-smp", "init_on_alloc=1"}
	if cpus <= 1 {
		line = append(line, "nolapic_timer")
	}
	return line
}

// NICs are a machine's NICs, one for each element of random. Their addresses only tell
// them apart until each takes that of the link it stands for.
func NICs(random [][4]byte) []vmm.NIC {
	nics := make([]vmm.NIC, len(random))
	for i, r := range random {
		mac := net.HardwareAddr{0x02, r[0], r[1], r[2], r[3], byte(i)} // locally administered, unicast
		nics[i] = vmm.NIC{ID: "n" + strconv.Itoa(i), MAC: mac.String()}
	}
	return nics
}
