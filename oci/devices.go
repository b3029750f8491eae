// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// GuestDevice names a device of the guest's kernel beyond the standard set.
type GuestDevice string

// The ones that can be offered.
const (
	Fuse GuestDevice = "fuse" // /dev/fuse, c 10:229
	Tun  GuestDevice = "tun"  // /dev/net/tun, c 10:200
)

// DeviceKind says where a device lives.
type DeviceKind int

// The kinds.
const (
	KernelDevice DeviceKind = iota + 1 // the guest's kernel has it under the same number
	HostBlock                          // a host's block device, handed over as a disk
)

// Device is one device node that the workload gets. Devices are in the order of linux.devices.
type Device struct {
	Kind   DeviceKind
	Path   string // absolute, in the container
	Number DeviceNumber
	// ReadOnly: of a HostBlock, no rule lets the workload write it.
	ReadOnly bool
}

// DeviceNumber is a node's number: on the host for HostBlock, in the guest else.
type DeviceNumber struct {
	Block        bool
	Major, Minor int64
}

// String prints it as mknod takes it.
func (n DeviceNumber) String() string {
	if n.Block {
		return fmt.Sprintf("b %d:%d", n.Major, n.Minor)
	}
	return fmt.Sprintf("c %d:%d", n.Major, n.Minor)
}

// guestHas says that the guest's kernel offers the device under this number (numbers:
// Documentation/admin-guide/devices.txt). These are of drivers that every kernel has; a number of
// another driver can be a disk of another container in the guest.
func guestHas(n DeviceNumber, offered []GuestDevice) bool {
	if n.Block {
		return false
	}
	switch n.Major {
	case 1: // null, zero, full, random, urandom, kmsg
		return slices.Contains([]int64{3, 5, 7, 8, 9, 11}, n.Minor)
	case 5: // tty, console, ptmx
		return n.Minor >= 0 && n.Minor <= 2
	case 136: // pts
		return true
	case 10:
		return n.Minor == 229 && slices.Contains(offered, Fuse) || n.Minor == 200 && slices.Contains(offered, Tun)
	}
	return false
}

// harmlessRule says that allowing the number opens nothing of a host: engines
// list it by default, whether or not the node exists.
func harmlessRule(n DeviceNumber) bool {
	return guestHas(n, []GuestDevice{Fuse, Tun})
}

const privilegedText = "the host's devices are not handed over: for privileged containers set " +
	"privileged_without_host_devices = true in the engine's runtime entry " +
	"(nerdctl: --security-opt privileged-without-host-devices); Docker, which has no such setting, gives the same by --cap-add=ALL " +
	"--security-opt=seccomp=unconfined --security-opt=systempaths=unconfined instead of --privileged"

// devices checks linux.devices and, with them, the device rules. The default is to refuse: a device
// of the host means a driver of the host's kernel, which a guest cannot reach.
func (w *Workload) devices(opts Options, p *problems) {
	var refused []string
	for i, d := range w.spec.Linux.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		if !path.IsAbs(d.Path) || strings.ContainsRune(d.Path, 0) {
			p.refuse(field+".path", d.Path, "must be absolute")
		}
		if d.UID != nil {
			p.id(field+".uid", *d.UID)
		}
		if d.GID != nil {
			p.id(field+".gid", *d.GID)
		}
		out := Device{
			Kind: KernelDevice, Path: path.Clean(d.Path),
			Number: DeviceNumber{Block: d.Type == "b", Major: d.Major, Minor: d.Minor},
		}
		switch {
		case d.Type == "p":
			p.refuse(field+".type", d.Path, "a FIFO is not a device of the guest: put it in the image or a volume")
		case (d.Type == "c" || d.Type == "u") && guestHas(out.Number, opts.devices()):
			w.Devices = append(w.Devices, out)
		case d.Type == "b" && opts.BlockDevices:
			out.Kind = HostBlock
			// The node's mode says nothing of it: engines give a device read-only by its rule
			// alone.
			out.ReadOnly = !writable(w.spec.Linux.Resources, out.Number)
			w.Devices = append(w.Devices, out)
		default:
			refused = append(refused, d.Path)
		}
	}
	allowAll := allowsAll(w.spec.Linux.Resources)
	// A privileged container lists every disk of the host. Handing all of them to a guest is not
	// what workloads.block_devices was switched on for; one that is named alone is.
	if allowAll && len(w.Devices)+len(refused) > 1 && slices.ContainsFunc(w.Devices, func(d Device) bool { return d.Kind == HostBlock }) {
		refused = append(refused, "block devices")
	}
	switch {
	case len(refused) == 0:
	case allowAll:
		p.refuse("linux.devices", refused, privilegedText)
	default:
		p.refuse("linux.devices", refused,
			"the guest's kernel has no such device and the host's cannot be handed over: remove it (allowed: the standard "+
				"set, what workloads.guest_devices lists, and block devices where workloads.block_devices is true)")
	}
	if w.spec.Linux.Resources != nil {
		p.deviceRules(w.spec.Linux.Resources.Devices, w.Devices)
	}
}

// allowsAll recognises the rule of privileged containers.
func allowsAll(r *specs.LinuxResources) bool {
	if r == nil {
		return false
	}
	return slices.ContainsFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool {
		return d.Allow && (d.Type == "a" || d.Type == "") && wild(d.Major) && wild(d.Minor)
	})
}

// writable says that a rule lets the workload write a block device. The last rule that fits wins,
// as in the kernel. Without rules a disk is read-only.
func writable(r *specs.LinuxResources, n DeviceNumber) bool {
	if r == nil {
		return false
	}
	yes := false
	for _, d := range r.Devices {
		if d.Type == "c" || !wild(d.Major) && *d.Major != n.Major || !wild(d.Minor) && *d.Minor != n.Minor {
			continue
		}
		if d.Access == "" || strings.Contains(d.Access, "w") {
			yes = d.Allow
		}
	}
	return yes
}

// wild says that a rule's number means all numbers.
func wild(n *int64) bool { return n == nil || *n < 0 }

// deviceRules refuses rules that would open a device of the guest which the
// workload was not given: numbers mean something else in there.
func (p *problems) deviceRules(rules []specs.LinuxDeviceCgroup, devices []Device) {
	for i, r := range rules {
		field := fmt.Sprintf("linux.resources.devices[%d]", i)
		if !slices.Contains([]string{"", "a", "b", "c"}, r.Type) || strings.Trim(r.Access, "rwm") != "" {
			p.refuse(field, ruleString(r), "want type a, b or c, and access of r, w and m")
			continue
		}
		// Denials open nothing. Making a node without opening it opens nothing either. A rule for
		// all character devices, or for everything, is a privileged container's: the guest is its
		// boundary.
		if !r.Allow || r.Access == "m" || r.Type != "b" && wild(r.Major) || r.Type == "b" && wild(r.Major) && wild(r.Minor) {
			continue
		}
		// All numbers of pts are terminals of the guest's.
		if r.Type == "c" && *r.Major == 136 {
			continue
		}
		// Of one class of devices all numbers, as b 8:*: in the guest that can be every container's
		// disk.
		if wild(r.Major) || wild(r.Minor) {
			p.refuse(field, ruleString(r), "opens numbers that mean other devices in a guest: name one device")
			continue
		}
		n := DeviceNumber{Block: r.Type == "b", Major: *r.Major, Minor: *r.Minor}
		// A rule without its device is harmless only for devices that every container may have.
		given := slices.ContainsFunc(devices, func(d Device) bool { return d.Number == n })
		if !given && !harmlessRule(n) {
			p.refuse(field, ruleString(r),
				"is not a device that the workload is given: remove the rule, or list the device under linux.devices")
		}
	}
}

// deniedFirst gives rules that begin with one for all devices: a denial, unless the configuration's
// first rule is one for all. runc starts from a denial as well. crun writes rules only where there
// are any, so that a container without rules could open each disk of its guest, or of the host.
func deniedFirst(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if len(rules) > 0 {
		r := rules[0]
		rwm := r.Access == "" || strings.Contains(r.Access, "r") && strings.Contains(r.Access, "w") && strings.Contains(r.Access, "m")
		if (r.Type == "" || r.Type == "a") && wild(r.Major) && wild(r.Minor) && rwm {
			return rules
		}
	}
	return append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, rules...)
}

// ruleString is a rule in the form of cgroup v1's devices.allow, which people know.
func ruleString(r specs.LinuxDeviceCgroup) string {
	num := func(n *int64) string {
		if wild(n) {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprintf("%s %s:%s %s", r.Type, num(r.Major), num(r.Minor), r.Access)
}
