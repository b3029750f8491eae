// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/bits"
	"slices"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/vmm"
)

// ClassMiB is the containers' memory that a template is made for, at least the given one: 4, 5, 6
// or 7 times a power of two. What engines commonly ask for (128, 256, 512, 1024) is a class by
// itself, and no other wish grows by more than a quarter.
func ClassMiB(containersMiB int) int {
	step := 1
	if n := bits.Len(uint(max(containersMiB, 1) - 1)); n > 3 {
		step <<= n - 3
	}
	return (containersMiB + step - 1) / step * step
}

// Class is the size of the template for sandboxes of a size. The memory is of the class of the
// containers' memory, with the same reserve. The CPUs are the sandbox's: their number bounds what a
// guest that was taken over may use of the host's.
func Class(s oci.Size) oci.Size {
	have := int(s.ContainerMemory >> 20)
	more := ClassMiB(have) - have
	s.MemoryMiB += more
	s.ContainerMemory += int64(more) << 20
	return s
}

// ForTemplate is the machine that is saved so that machines like m may start from it: without the
// share, and with an agent that waits. It has the same devices in the same places, since the state
// of the saved ones is loaded into them.
func ForTemplate(m vmm.Machine) vmm.Machine {
	m.Origin, m.Share = vmm.ForTemplate, nil
	m.Cmdline = append(slices.Clone(m.Cmdline), guestapi.TemplateParameter)
	return m
}

// CopyReason says why a machine of a template's size, whose sandbox has the memory ownMiB, gets a
// copy of the template's memory; empty: it maps that memory copy-on-write.
func CopyReason(m vmm.Machine, ownMiB int) string {
	switch {
	case m.Share != nil:
		return "its file server maps the guest's memory, too"
	case ownMiB != m.MemoryMiB:
		// The balloon takes the rest, and gives nothing back of what is mapped copy-on-write.
		return fmt.Sprintf("its memory of %d MiB is no class of templates, the next is %d MiB", ownMiB, m.MemoryMiB)
	}
	return ""
}

// FromTemplate is m, of a template's size, as it starts from one whose NICs have those addresses.
// The guest's kernel has read them at boot; they only tell the NICs apart. The links that the NICs
// stand for give them their addresses later, as in a cold start.
func FromTemplate(m vmm.Machine, macs []string) (vmm.Machine, error) {
	if len(macs) != len(m.NICs) {
		return m, fmt.Errorf("template has %d NICs, the machine %d", len(macs), len(m.NICs))
	}
	m.Origin, m.NICs = vmm.FromTemplate, slices.Clone(m.NICs)
	for i, mac := range macs {
		m.NICs[i].MAC = mac
	}
	return m, m.Validate()
}

// NoTemplate says why a machine cannot start from a template; empty: it can. What a template cannot
// serve starts cold. Each reason is a state that the saved guest has and cannot change afterwards,
// or a board that QEMU does not restore with a file server.
func NoTemplate(m vmm.Machine, users guestapi.UserNamespace) string {
	switch {
	case m.Type != vmm.MicroVM:
		return "its machine type is " + string(m.Type) + ", and templates exist only for microvm"
	case m.HugePages:
		return "its memory uses huge pages"
	case !users.IsZero():
		return "its user namespace is made while the guest boots"
	}
	return ""
}
