// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/vmm"
)

// AgentPort is the name under which the guest finds the agent's port in
// /sys/class/virtio-ports.
const AgentPort = "io.cloister.agent"

// tbSizeMiB bounds what the emulator keeps of translated code; QEMU's default is
// an eighth of the host's memory, up to 1 GiB (accel/tcg/translate-all.c).
const tbSizeMiB = 128

// OverheadMiB is what QEMU itself may need beside the guest's memory, to be added
// where its cgroup limits it: about 60 MiB were seen with an emulated guest that had
// just booted, before its translated code fills up.
func OverheadMiB(m vmm.Machine) int {
	m = m.WithDefaults()
	overhead := 96 + 4*m.CPUs + m.MemoryMiB/128
	if m.Accel == vmm.AccelTCG {
		overhead += tbSizeMiB + tbSizeMiB/2
	}
	return overhead
}

// FDs are the descriptor numbers QEMU finds its files at.
type FDs struct {
	// QMP, Agent and Console are connected stream sockets.
	QMP, Agent, Console int
	// Share is the connected socket of the file server; used when the machine
	// has a share.
	Share int
	// Memory is the file of the machine's memory; used with a template.
	Memory int
	// Taps has one tap per NIC, in order.
	Taps []int
}

// Args returns QEMU's arguments, without the binary's name, for a valid machine whose Accel is
// resolved. It is pure: the same values give the same arguments, and no value can become an option
// of its own. The errors of an invalid machine are those of Validate.
func Args(m vmm.Machine, fds FDs) ([]string, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	m = m.WithDefaults()
	if m.Accel != vmm.AccelKVM && m.Accel != vmm.AccelTCG {
		return nil, &vmm.FieldError{Field: "Accel", Value: string(m.Accel), Remedy: "resolve it to kvm or tcg first"}
	}
	if len(fds.Taps) != len(m.NICs) {
		return nil, fmt.Errorf("machine has %d NICs but %d taps: %w", len(m.NICs), len(fds.Taps), errdefs.ErrInvalidArgument)
	}
	var a arguments
	// -S: the guest runs nothing before its labels are read back. -nodefaults and -no-user-config:
	// no device but those named here. -no-reboot: a microvm's reset is its end.
	a.flags("-S", "-nodefaults", "-no-user-config", "-no-reboot")
	a.plain("-display", "none")
	// QEMU's own list of system calls, below the jail's: no setuid, no new processes, no
	// scheduling.
	a.option("-sandbox", "on", kv("obsolete", "deny"), kv("elevateprivileges", "deny"), kv("spawn", "deny"), kv("resourcecontrol", "deny"))
	a.option("-name", "", kv("guest", m.Name), kv("debug-threads", "on"))
	a.board(m, fds)
	a.start(m)
	a.chardev("qmp", fds.QMP)
	a.option("-mon", "", kv("chardev", "qmp"), kv("mode", "control"))
	a.chardev("console", fds.Console)
	a.plain("-serial", "chardev:console")
	a.devices(m, fds)
	return a, nil
}

// start says what the machine does first. What was saved has kernel, initial image and line in its
// memory.
func (a *arguments) start(m vmm.Machine) {
	if m.Origin == vmm.FromTemplate {
		a.plain("-incoming", "defer")
		return
	}
	a.plain("-kernel", m.Kernel)
	if m.Initrd != "" {
		a.plain("-initrd", m.Initrd)
	}
	line := m.Cmdline
	if m.Origin == vmm.ForTemplate {
		// QEMU tells of the slots that have a device. The kernel probes the empty one, finds
		// nothing and keeps the platform device, to which the agent binds the driver once the share
		// is there. It comes first, and so is virtio-mmio.0.
		line = append([]string{emptySlot}, line...)
	}
	a.plain("-append", strings.Join(line, " "))
}

// board says what is there before any device: machine, processor, memory. Switched off is what a
// guest has no use for: each emulated device is code of QEMU's that a guest can reach. Memory is
// left out of core dumps, and is not merged with other guests' pages.
func (a *arguments) board(m vmm.Machine, fds FDs) {
	common := []property{kv("memory-backend", "ram"), kv("dump-guest-core", "off"), kv("mem-merge", "off")}
	switch m.Type {
	case vmm.MicroVM:
		// The interrupt controller and timer of a PC stay: without KVM's clock
		// the kernel calibrates against them. The clock gives it the date.
		a.option("-machine", "microvm", append(common, kv("acpi", "off"), kv("isa-serial", "on"), kv("rtc", "on"),
			kv("auto-kernel-cmdline", "on"), kv("x-option-roms", "off"))...)
		// vhost-user refuses virtio before 1.0, which is virtio-mmio's default.
		a.plain("-global", "virtio-mmio.force-legacy=false")
	case vmm.Q35:
		a.option("-machine", "q35", append(common, kv("usb", "off"), kv("smm", "off"), kv("vmport", "off"),
			kv("smbus", "off"), kv("sata", "off"), kv("i8042", "off"), kv("hpet", "off"))...)
	}
	a.processors(m)
	size := strconv.Itoa(m.MemoryMiB) + "M"
	a.option("-m", "", kv("size", size))
	share := "on" // a vhost-user file server needs it
	if m.CopyOnWrite {
		share = "off"
	}
	memory := []property{kv("id", "ram"), kv("size", size), kv("share", share)}
	if m.HugePages {
		memory = append(memory, kv("hugetlb", "on"), kv("hugetlbsize", "2M"))
	}
	if m.Origin != vmm.FromKernel {
		// QEMU leaves shared memory out of what it saves only where it knows the memory by a file's
		// name (8.2 and later).
		a.option("-object", "memory-backend-file", append(memory, kv("mem-path", "/proc/self/fd/"+strconv.Itoa(fds.Memory)))...)
		return
	}
	a.option("-object", "memory-backend-memfd", memory...)
}

// processors adds the accelerator, the CPU's model and the count of CPUs.
func (a *arguments) processors(m vmm.Machine) {
	if m.Accel == vmm.AccelKVM {
		a.option("-accel", "kvm")
		a.option("-cpu", "host", features(m)...)
	} else {
		a.option("-accel", "tcg", kv("thread", "multi"), kv("tb-size", strconv.Itoa(tbSizeMiB)))
		// A microvm's kernel hangs on five-level page tables under emulation. With erms
		// everybody copies byte by byte, which takes eight times the steps of words.
		a.option("-cpu", "max", append([]property{kv("la57", "off"), kv("erms", "off")}, features(m)...)...)
	}
	a.count(m)
}

// features takes away what few workloads use and what is a large part of KVM's and QEMU's code that
// a guest can reach: nested virtualization and the performance counters. Emulation has svm alone,
// and no counters.
func features(m vmm.Machine) []property {
	var off []property
	if !m.NestedVirtualization && m.Accel == vmm.AccelKVM {
		off = append(off, kv("vmx", "off"))
	}
	if !m.NestedVirtualization {
		off = append(off, kv("svm", "off"))
	}
	if !m.PerformanceCounters && m.Accel == vmm.AccelKVM {
		off = append(off, kv("pmu", "off"))
	}
	return off
}

// count says how many CPUs there are. An emulated machine always has room for a second
// CPU that is never there: with max_cpus 1 QEMU translates the guest's locked
// instructions and fences into plain ones (no CF_PARALLEL, accel/tcg). QEMU's device
// threads and the file server then see the guest's ring writes in another order, a
// notification is suppressed on both sides (EVENT_IDX), and the guest waits for ever.
func (a *arguments) count(m vmm.Machine) {
	cpus := []property{kv("cpus", strconv.Itoa(m.CPUs))}
	room := m.CPUs
	if m.Accel == vmm.AccelTCG && m.CPUs == 1 {
		room = 2
		cpus = append(cpus, kv("maxcpus", "2"))
	}
	a.option("-smp", "", append(cpus, kv("sockets", "1"), kv("cores", strconv.Itoa(room)), kv("threads", "1"))...)
}

// devices adds the virtio devices.
func (a *arguments) devices(m vmm.Machine, fds FDs) {
	model := modelsPCI
	if m.Type == vmm.MicroVM {
		model = modelsMMIO
	}
	// Port 0 is reserved for a console; every further port costs the guest two
	// queues at boot.
	a.device(m, slotSerial, model("virtio-serial"), kv("id", "serial0"), kv("max_ports", "2"))
	a.chardev("agent", fds.Agent)
	a.option("-device", "virtserialport", kv("bus", "serial0.0"), kv("nr", "1"), kv("chardev", "agent"), kv("name", AgentPort))
	a.device(m, slotSCSI, model("virtio-scsi"), kv("id", "scsi0"), kv("num_queues", "1"))
	a.option("-object", "rng-builtin", kv("id", "rng0"))
	a.device(m, slotRandom, model("virtio-rng"), kv("rng", "rng0"))
	if m.Balloon {
		a.device(m, slotBalloon, model("virtio-balloon"), kv("free-page-reporting", "on"))
	}
	if m.Share != nil {
		a.chardev("share", fds.Share)
		a.device(m, slotShare, model("vhost-user-fs"), kv("id", shareDevice), kv("chardev", "share"), kv("tag", m.Share.Tag))
	}
	for i, n := range m.NICs {
		a.option("-netdev", "tap", kv("id", netdevID(n)), kv("fd", strconv.Itoa(fds.Taps[i])))
		props := []property{kv("id", nicDevice(n)), kv("netdev", netdevID(n)), kv("mac", strings.ToLower(n.MAC))}
		if n.MTU != 0 {
			props = append(props, kv("host_mtu", strconv.Itoa(n.MTU)))
		}
		if m.Type == vmm.Q35 {
			props = append(props, kv("romfile", ""))
		}
		a.device(m, nicSlot(m, i), model("virtio-net"), props...)
	}
}

// shareDevice is the id of the file server's device.
const shareDevice = "fs0"

// The virtio-mmio slots of a microvm. Each device has its own, so that a machine from a template
// has them where they were. The interrupt of slot N is 5+N: slotSpare has the clock's (8), and is
// taken only by a machine that needs all.
const (
	slotShare = iota
	slotNIC1
	slotNIC0
	slotSpare
	slotBalloon
	slotRandom
	slotSCSI
	slotSerial
)

// emptySlot is the kernel parameter for slotShare, as QEMU would write it (hw/i386/microvm.c:
// VIRTIO_MMIO_BASE, 512 bytes each; IRQ 5).
const emptySlot = "virtio_mmio.device=512@0xfeb00000:5"

// nicSlot is the slot of a microvm's i-th NIC: what is left over once the first two are
// placed comes last.
func nicSlot(m vmm.Machine, i int) int {
	free := []int{slotNIC0, slotNIC1, slotSpare}
	if !m.Balloon {
		free = append(free, slotBalloon)
	}
	if m.Share == nil {
		free = append(free, slotShare)
	}
	if i < len(free) {
		return free[i]
	}
	return slotSpare // Validate has refused it
}

// device adds a virtio device, on a microvm in its slot.
func (a *arguments) device(m vmm.Machine, slot int, model string, props ...property) {
	if m.Type == vmm.MicroVM {
		props = append(props, kv("bus", "virtio-mmio-bus."+strconv.Itoa(slot)))
	}
	a.option("-device", model, props...)
}

// modelsPCI and modelsMMIO name a device for the board's virtio transport,
// version 1.0 only.
func modelsPCI(device string) string {
	if device == "vhost-user-fs" {
		return device + "-pci"
	}
	return device + "-pci-non-transitional"
}

func modelsMMIO(device string) string { return device + "-device" }

// netdevID and nicDevice keep a NIC's ids apart from ours.
func netdevID(n vmm.NIC) string  { return "net-" + n.ID }
func nicDevice(n vmm.NIC) string { return "nic-" + n.ID }

// property is one key=value of an option.
type property struct{ key, value string }

// kv is a property.
func kv(key, value string) property { return property{key, value} }

// arguments grow option by option.
type arguments []string

// flags adds options without a value.
func (a *arguments) flags(names ...string) { *a = append(*a, names...) }

// plain adds an option whose value QEMU takes as a whole.
func (a *arguments) plain(name, value string) { *a = append(*a, name, value) }

// option adds an option whose value QEMU splits at commas: first, the bare
// value, if any, then the properties. A comma inside of a value is doubled,
// which is how QEMU's parser takes it literally.
func (a *arguments) option(name, first string, props ...property) {
	parts := make([]string, 0, 1+len(props))
	if first != "" {
		parts = append(parts, first)
	}
	for _, pr := range props {
		parts = append(parts, pr.key+"="+strings.ReplaceAll(pr.value, ",", ",,"))
	}
	*a = append(*a, name, strings.Join(parts, ","))
}

// chardev adds a character device on a connected socket QEMU inherits.
func (a *arguments) chardev(id string, fd int) {
	a.option("-chardev", "socket", kv("id", id), kv("fd", strconv.Itoa(fd)))
}
