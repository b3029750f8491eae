// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/vmm"
)

// hugePageMiB is the size of the pages that a machine's memory is made of.
const hugePageMiB = 2

// checkHugePages is an error where the host has fewer free huge pages than the machine needs:
// QEMU would end with a line about mmap. Another machine may take them meanwhile.
func checkHugePages(m vmm.Machine) error {
	if !m.HugePages {
		return nil
	}
	const free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
	text, err := os.ReadFile(free)
	if err != nil {
		return fmt.Errorf("machine.hugepages: the host has none of %d MiB: %w: set hugepages = false, or boot a kernel with them",
			hugePageMiB, err)
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("machine.hugepages: %s: %w", free, err)
	}
	return enoughHugePages(m.MemoryMiB, have)
}

// enoughHugePages compares what is free with what the machine takes.
func enoughHugePages(memoryMiB, have int) error {
	if want := (memoryMiB + hugePageMiB - 1) / hugePageMiB; have < want {
		return fmt.Errorf("machine.hugepages: %d pages of %d MiB are free, the machine's %d MiB take %d: "+
			"raise vm.nr_hugepages by at least %d (sysctl -w), or set hugepages = false: %w",
			have, hugePageMiB, memoryMiB, want, want-have, errdefs.ErrResourceExhausted)
	}
	return nil
}
