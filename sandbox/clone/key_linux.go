// SPDX-License-Identifier: Apache-2.0

package clone

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/labels/policy"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// Host is where a host keeps its templates, and what they depend on besides the machine. MAC is in
// the key since a guest's labels and the policy's version decide what its QEMU may do.
type Host struct {
	Store template.Store
	QEMU  string // path of the binary
	MAC   string // the driver, as labels.mac names it
	// Unshared says why this host's policy lets the machine map no template's memory; nil: it does.
	Unshared func() error
}

// key says which templates a machine may start from. The key is made of QEMU's own arguments, so
// that a device or flag that plan adds later changes it without anybody's thinking of it.
func (h Host) key(machine vmm.Machine) (template.Key, error) {
	image, err := guestimage.Open(filepath.Dir(machine.Kernel)) // the plan has verified it
	if err != nil {
		return template.Key{}, err
	}
	m := plan.ForTemplate(machine)
	// What differs from sandbox to sandbox is made the same: name, addresses and descriptors. The
	// guest does not depend on them.
	m.Name = "template"
	m.NICs = plan.NICs(make([][4]byte, len(m.NICs)))
	args, err := qemu.Args(m, qemu.FDs{Taps: make([]int, len(m.NICs))})
	if err != nil {
		return template.Key{}, err
	}
	sum, err := h.digestQEMU()
	if err != nil {
		return template.Key{}, err
	}
	cpu, err := template.HostCPU()
	if err != nil {
		return template.Key{}, err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return template.Key{}, err
	}
	mac := h.MAC
	if mac != "none" {
		mac += " " + policy.Digest()
	}
	return template.Key{
		Image: image.Manifest.Inputs, Kernel: image.Manifest.Kernel.SHA256, Initrd: image.Manifest.Initrd.SHA256,
		Protocol: guestapi.Protocol, QEMU: sum, Machine: string(m.Type), Accel: string(m.Accel), CPUs: m.CPUs, MemoryMiB: m.MemoryMiB,
		Cmdline: m.Cmdline, Arguments: args, HostCPU: cpu, HostKernel: unix.ByteSliceToString(host.Release[:]), Policy: mac,
	}, nil
}

// digestQEMU is the digest of QEMU's program. A version is not enough: a rebuilt QEMU with the same
// one may load another format of state.
func (h Host) digestQEMU() (string, error) {
	binary, err := os.Open(h.QEMU)
	if err != nil {
		return "", err
	}
	defer binary.Close() // read only
	return h.Store.Digest(binary)
}
