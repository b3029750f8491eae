// SPDX-License-Identifier: Apache-2.0

package vmm

// Bounds and defaults. A machine is the workload's limit plus a reserve for the
// guest itself; both are the caller's to add up.
const (
	// DefaultCPUs is what a CPUs of 0 means.
	DefaultCPUs = 1
	// MaxCPUs is what one I/O APIC without interrupt remapping can address
	// (8-bit APIC ids, 255 being broadcast).
	MaxCPUs = 254
	// DefaultMemoryMiB is what a MemoryMiB of 0 means.
	DefaultMemoryMiB = 640
	// MinMemoryMiB is the least in which a distribution's kernel unpacks a
	// 32 MiB initial image and still starts its first process.
	MinMemoryMiB = 160
	// MaxMemoryMiB is the 1 TiB that a guest with 40 physical address bits,
	// QEMU's floor, can address.
	MaxMemoryMiB = 1 << 20
	// DefaultConsoleBytes is what a Console.MaxBytes of 0 means.
	DefaultConsoleBytes = 1 << 20
	// MaxLUN keeps to the peripheral addressing that every SCSI driver scans.
	MaxLUN = 255
	// MaxCmdline is COMMAND_LINE_SIZE of x86 Linux, with its final zero.
	MaxCmdline = 2048
)

// MachineType names the board QEMU emulates.
type MachineType string

// The boards there are. The zero value means Q35.
const (
	Q35     MachineType = "q35"
	MicroVM MachineType = "microvm"
)

// KernelParameters returns what a kernel on this board is to be told, so that it does
// not look for what is not there and finds the way to end: a microvm cannot power
// off, but its reset ends it.
func (t MachineType) KernelParameters() []string {
	if t == MicroVM {
		return []string{"acpi=off", "pci=off", "reboot=t"}
	}
	return nil
}

// Accel names what executes the guest's instructions.
type Accel string

// The accelerators there are. AccelAuto, or the zero value, is a wish that
// ChooseAccel resolves; only AccelKVM and AccelTCG run.
const (
	AccelAuto Accel = "auto"
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// Origin says what a machine does first.
type Origin string

// The origins. Both that have to do with a template need a MicroVM whose memory is the caller's
// file.
const (
	// FromKernel, the zero value, boots the kernel.
	FromKernel Origin = ""
	// ForTemplate boots the kernel of a machine that is saved before it has a share. The share's
	// slot stays empty, and the guest's kernel probes it at boot.
	ForTemplate Origin = "for-template"
	// FromTemplate waits for what a machine ForTemplate has saved.
	FromTemplate Origin = "from-template"
)

// Machine describes one machine from its first instruction on. It always has a
// serial console, the agent's port, a SCSI controller and a random source;
// everything else is said here.
type Machine struct {
	// Name shows up in the process list and in errors: 1 to 128 of
	// [A-Za-z0-9_.-], starting with a letter or digit.
	Name string
	// Type is the board; the zero value means Q35.
	Type MachineType
	// Origin is what it does first; the zero value boots the kernel.
	Origin Origin
	// Accel must be resolved (AccelKVM or AccelTCG) before the machine runs.
	Accel Accel
	// CPUs is the count of virtual CPUs, 0 meaning DefaultCPUs.
	CPUs int
	// NestedVirtualization gives the guest vmx or svm, so that it can run machines itself.
	NestedVirtualization bool
	// PerformanceCounters gives the guest the host's PMU, with KVM.
	PerformanceCounters bool
	// MemoryMiB is all the memory the guest sees, 0 meaning DefaultMemoryMiB.
	MemoryMiB int
	// Kernel and Initrd are absolute paths of files QEMU opens itself.
	Kernel, Initrd string
	// Cmdline is the kernel's line, one parameter per element.
	Cmdline []string
	// Balloon gives memory the guest has freed back to the host.
	Balloon bool
	// CopyOnWrite maps the caller's file privately: what the guest writes is its own, and the file,
	// which other machines may map, stays as it is. It is for a machine FromTemplate without a
	// Share. A Balloon gives nothing back then: QEMU does so by holes in the file, which its seal
	// refuses. The guest should not use it: each try is a line in QEMU's log.
	CopyOnWrite bool
	// HugePages takes the guest's memory from the host's pages of 2 MiB; MemoryMiB is even then.
	HugePages bool
	// Share is the one folder shared with the guest; nil means none.
	Share *Share
	// NICs are all NICs the machine will ever have.
	NICs []NIC
	// Disks are the disks there from the first instruction on. More may be
	// added later.
	Disks []Disk
	// Console says how much of the guest's console is kept.
	Console Console
}

// Disk is one LUN of the machine's SCSI controller.
type Disk struct {
	// LUN is the disk's address, 0 to MaxLUN, unique in the machine.
	LUN int
	// Path is the host's file or block device, absolute. It is opened by the
	// caller's side, never by QEMU.
	Path string
	// ReadOnly is enforced on the host's side.
	ReadOnly bool
}

// Share is a folder served over vhost-user by a file server.
type Share struct {
	// Tag is the name the guest mounts by: 1 to 36 of [A-Za-z0-9_.-].
	Tag string
}

// NIC is one NIC; its host side is a tap opened by the caller.
type NIC struct {
	// ID names the NIC towards QEMU: 1 to 32 of [A-Za-z0-9_.-], starting with
	// a letter, unique in the machine.
	ID string
	// MAC is a unicast address as aa:bb:cc:dd:ee:ff.
	MAC string
	// MTU is told to the guest; 0 leaves the guest its default.
	MTU int
	// LinkDown starts the NIC without carrier: a spare for later.
	LinkDown bool
}

// Console says how the guest's serial console is kept.
type Console struct {
	// MaxBytes bounds the log, 0 meaning DefaultConsoleBytes.
	MaxBytes int
}

// WithDefaults returns the machine with documented defaults in place of zero
// values. Accel stays as it is.
func (m Machine) WithDefaults() Machine {
	if m.Type == "" {
		m.Type = Q35
	}
	if m.CPUs == 0 {
		m.CPUs = DefaultCPUs
	}
	if m.MemoryMiB == 0 {
		m.MemoryMiB = DefaultMemoryMiB
	}
	if m.Console.MaxBytes == 0 {
		m.Console.MaxBytes = DefaultConsoleBytes
	}
	return m
}
