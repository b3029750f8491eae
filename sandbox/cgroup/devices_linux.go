// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go" //nolint:depguard // what the library's filter is made of
	"golang.org/x/sys/unix"
)

// setDevices has the leaf's processes open no device but these. They may make nodes of all devices,
// as a file server does for its guest: opening one is refused. What a group above refuses stays
// refused. A host without a devices controller on v1 and without cgroup v2 has nowhere to put the
// list. QEMU's seccomp list and its uid are left there, and the start does not fail for it.
func (g *Group) setDevices(allowed []Device) error {
	if h, ok := g.v1("devices"); ok {
		return g.setDevicesV1(h, allowed)
	}
	for _, h := range g.hosts {
		if h.unified {
			return attachDevices(path.Join(h.mount, g.leaf), allowed)
		}
	}
	return nil
}

// setDevicesV1 writes the list into the devices controller. The order matters: "a" in devices.deny
// empties the list that a new group inherits, and all after it adds to nothing. The leaf has no
// process yet, so nobody runs between the two with the wider list.
func (g *Group) setDevicesV1(h hierarchy, allowed []Device) error {
	list := []string{"c *:* m", "b *:* m"}
	for _, d := range allowed {
		list = append(list, fmt.Sprintf("c %d:%d rw", d.Major, d.Minor))
	}
	if err := g.put(h, setting{controller: "devices", file: "devices.deny", value: "a"}); err != nil {
		return err
	}
	for _, rule := range list {
		err := g.put(h, setting{controller: "devices", file: "devices.allow", value: rule})
		// The kernel answers EPERM for an entry that the parent group does not have. Fewer devices
		// than asked for is no hole: a missing /dev/kvm shows when QEMU opens it.
		if err != nil && !errors.Is(err, unix.EPERM) { // a group above does not allow it
			return err
		}
	}
	return nil
}

// attachDevices has the kernel ask a BPF program before a process of a v2 group opens a device: v2
// has no file for it. The program lives as long as the group. It is attached before a process is in
// the group: a descriptor that is open already stays usable.
func attachDevices(group string, allowed []Device) error {
	// The device filter of containerd/cgroups takes -1 for every number. It looks at the rules from
	// the last to the first, so the refusal of all devices stands first.
	every := int64(-1)
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Type: "a", Major: &every, Minor: &every, Access: "rwm"},
		{Allow: true, Type: "c", Major: &every, Minor: &every, Access: "m"},
		{Allow: true, Type: "b", Major: &every, Minor: &every, Access: "m"},
	}
	for _, d := range allowed {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d.Major, Minor: &d.Minor, Access: "rw"})
	}
	program, license, err := cgroup2.DeviceFilter(rules)
	if err != nil {
		return fmt.Errorf("cgroup %s: devices: %w", group, err)
	}
	dir, err := os.Open(group)
	if err != nil {
		return err
	}
	defer dir.Close() // read only
	if _, err := cgroup2.LoadAttachCgroupDeviceFilter(program, license, int(dir.Fd())); err != nil {
		return fmt.Errorf("cgroup %s: devices: %w: the shim needs CAP_BPF, and the kernel CONFIG_CGROUP_BPF; or name "+
			"\"devices\" in jail.disable", group, err)
	}
	return nil
}
