// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// Slots is how many virtio devices a board has room for: on a microvm the
// virtio-mmio transports (hw/i386/microvm.c of QEMU, acpi=off), on a q35 the
// places of the root bus but those of host bridge and ISA bridge.
func (t MachineType) Slots() int {
	if t == MicroVM {
		return 8
	}
	return 30
}

var (
	machineName = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.-]*\z`)
	shareTag    = regexp.MustCompile(`\A[A-Za-z0-9_.-]+\z`)
	// A blank would make two parameters of one, a quote one of several.
	cmdlineParam = regexp.MustCompile(`\A[!#-~]+\z`)
	nicID        = regexp.MustCompile(`\A[A-Za-z][A-Za-z0-9_.-]*\z`)
)

// fits says whether a value has the form of an expression and at most so many bytes. An expression
// with a bound repeats its part that often, and every shim compiles them when it starts.
func fits(form *regexp.Regexp, value string, most int) bool {
	return len(value) <= most && form.MatchString(value)
}

// FieldError is one field of a machine that cannot be run as it is. QEMU would say the same later,
// in its own words and without the field.
type FieldError struct {
	// Field is the field's path, as NICs[1].MAC.
	Field string
	// Value is what was found.
	Value any
	// Remedy says what to do.
	Remedy string
}

// Error names field, value and remedy.
func (e *FieldError) Error() string {
	if s, ok := e.Value.(string); ok {
		return fmt.Sprintf("machine %s %q: %s", e.Field, s, e.Remedy)
	}
	return fmt.Sprintf("machine %s %v: %s", e.Field, e.Value, e.Remedy)
}

// Unwrap gives the class, errdefs.ErrInvalidArgument.
func (e *FieldError) Unwrap() error { return errdefs.ErrInvalidArgument }

// fieldErrors collects what Validate finds, so that a user sees all at once.
type fieldErrors []error

func (f *fieldErrors) add(ok bool, field string, value any, remedy string) {
	if !ok {
		*f = append(*f, &FieldError{Field: field, Value: value, Remedy: remedy})
	}
}

// Validate reports every field that keeps the machine, with its defaults in
// place, from being run; each error is a *FieldError. An unresolved Accel is
// valid here.
func (m Machine) Validate() error {
	m = m.WithDefaults()
	var f fieldErrors
	f.add(fits(machineName, m.Name, 128), "Name", m.Name, "use 1 to 128 of [A-Za-z0-9_.-], starting with a letter or digit")
	f.add(m.Type == Q35 || m.Type == MicroVM, "Type", string(m.Type), "use q35 or microvm")
	switch m.Accel {
	case "", AccelAuto, AccelKVM, AccelTCG:
	default:
		f.add(false, "Accel", string(m.Accel), "use auto, kvm or tcg")
	}
	f.add(m.CPUs >= 1 && m.CPUs <= MaxCPUs, "CPUs", m.CPUs, fmt.Sprintf("use 1 to %d", MaxCPUs))
	f.add(m.MemoryMiB >= MinMemoryMiB && m.MemoryMiB <= MaxMemoryMiB, "MemoryMiB", m.MemoryMiB,
		fmt.Sprintf("use %d to %d", MinMemoryMiB, MaxMemoryMiB))
	f.add(!m.HugePages || m.MemoryMiB%2 == 0, "MemoryMiB", m.MemoryMiB, "use an even number with huge pages")
	f.origin(m)
	f.copyOnWrite(m)
	f.path("Kernel", m.Kernel)
	if m.Initrd != "" {
		f.path("Initrd", m.Initrd)
	}
	f.cmdline(m.Cmdline)
	f.add(m.Console.MaxBytes >= 4096 && m.Console.MaxBytes <= 1<<30, "Console.MaxBytes", m.Console.MaxBytes, "use 4096 to 1 GiB")
	if m.Share != nil {
		f.add(fits(shareTag, m.Share.Tag, 36), "Share.Tag", m.Share.Tag, "use 1 to 36 of [A-Za-z0-9_.-]")
	}
	f.nics(m.NICs)
	f.disks(m.Disks)
	if n, slots := m.VirtioDevices(), m.Type.Slots(); n > slots {
		remedy := fmt.Sprintf("a %s has %d virtio slots and this machine needs %d: use at most %d NICs",
			m.Type, slots, n, slots-n+len(m.NICs))
		if m.Type == MicroVM {
			remedy += ", or type q35"
		}
		f.add(false, "NICs", len(m.NICs), remedy)
	}
	return errors.Join(f...)
}

// VirtioDevices counts the virtio devices of the machine: serial, SCSI and
// random source, and what it was asked for. Disks share the SCSI one.
func (m Machine) VirtioDevices() int {
	n := 3 + len(m.NICs)
	if m.Share != nil {
		n++
	}
	if m.Balloon {
		n++
	}
	return n
}

// origin refuses what a saved machine cannot have: a state fits only a machine with the same
// devices, and a share is a connection to a process that will have ended.
func (f *fieldErrors) origin(m Machine) {
	switch m.Origin {
	case FromKernel:
		return
	case ForTemplate:
		f.add(m.Share == nil, "Share", m.Share, "a machine that becomes a template has none")
	case FromTemplate:
	default:
		f.add(false, "Origin", string(m.Origin), "use for-template, from-template or nothing")
	}
	f.add(m.Type == MicroVM, "Type", string(m.Type), "use microvm with a template")
	f.add(!m.HugePages, "HugePages", m.HugePages, "leave them out with a template: its memory is a file of small pages")
	f.add(len(m.Disks) == 0, "Disks", len(m.Disks), "add disks once the guest runs")
}

// copyOnWrite refuses what maps the memory's file beside QEMU: QEMU starts all the same, and the
// other side works on pages that are not the guest's.
func (f *fieldErrors) copyOnWrite(m Machine) {
	if !m.CopyOnWrite {
		return
	}
	f.add(m.Origin == FromTemplate, "CopyOnWrite", true, "use it with a machine from a template")
	f.add(m.Share == nil, "CopyOnWrite", true, "leave out the share: its file server maps the guest's memory itself (vhost-user)")
}

// path refuses what QEMU's or this side's working folder could change the meaning of.
func (f *fieldErrors) path(field, p string) {
	f.add(path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0), field, p,
		"use an absolute, clean path")
}

// cmdline refuses parameters that the kernel would split or join, and a line that it would cut off
// without a word.
func (f *fieldErrors) cmdline(params []string) {
	for i, p := range params {
		f.add(cmdlineParam.MatchString(p), fmt.Sprintf("Cmdline[%d]", i), p,
			"use printable ASCII without blanks and quotes, at least one character")
	}
	n := len(strings.Join(params, " "))
	// microvm appends one virtio_mmio.device parameter per slot.
	const room = 512
	f.add(n < MaxCmdline-room, "Cmdline", n, fmt.Sprintf("use less than %d bytes in all", MaxCmdline-room))
}

// nics refuses ids that QEMU would take for one device, and addresses that are not one NIC's alone.
func (f *fieldErrors) nics(nics []NIC) {
	ids, macs := map[string]bool{}, map[string]bool{}
	for i, n := range nics {
		at := fmt.Sprintf("NICs[%d].", i)
		f.add(fits(nicID, n.ID, 32), at+"ID", n.ID, "use 1 to 32 of [A-Za-z0-9_.-], starting with a letter")
		f.add(!ids[n.ID], at+"ID", n.ID, "is taken by an earlier NIC: use another")
		mac, err := net.ParseMAC(n.MAC)
		f.add(err == nil && len(mac) == 6 && mac[0]&1 == 0 && mac.String() != "00:00:00:00:00:00" && mac.String() == strings.ToLower(n.MAC),
			at+"MAC", n.MAC, "use a unicast address as aa:bb:cc:dd:ee:ff")
		f.add(err != nil || !macs[mac.String()], at+"MAC", n.MAC, "is taken by an earlier NIC: use another")
		// Bounds of virtio-net's host_mtu: ETH_MIN_MTU to ETH_MAX_MTU.
		f.add(n.MTU == 0 || n.MTU >= 68 && n.MTU <= 65535, at+"MTU", n.MTU, "use 68 to 65535, or 0 for the guest's default")
		ids[n.ID], macs[mac.String()] = true, true
	}
}

// disks checks every disk, and that no two have one address.
func (f *fieldErrors) disks(disks []Disk) {
	luns := map[int]bool{}
	for i, d := range disks {
		at := fmt.Sprintf("Disks[%d].", i)
		f.disk(at, d)
		f.add(!luns[d.LUN], at+"LUN", d.LUN, "is taken by an earlier disk: use another")
		luns[d.LUN] = true
	}
}

// disk checks what Disks and a disk that is added later have in common.
func (f *fieldErrors) disk(at string, d Disk) {
	f.add(d.LUN >= 0 && d.LUN <= MaxLUN, at+"LUN", d.LUN, fmt.Sprintf("use 0 to %d", MaxLUN))
	f.path(at+"Path", d.Path)
}

// Validate reports every field that keeps the disk from being used.
func (d Disk) Validate() error {
	var f fieldErrors
	f.disk("Disk.", d)
	return errors.Join(f...)
}
