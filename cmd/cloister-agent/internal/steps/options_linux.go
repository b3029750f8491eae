// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"strings"

	"golang.org/x/sys/unix"
)

// flag is what an option of fstab sets or clears, for mount(2) and for
// mount_setattr(2).
type flag struct {
	mount uintptr
	attr  uint64
	clear bool
}

// flags are the known options. Those without an attribute belong to a superblock and cannot be set
// for a bind; they count for new mounts only.
func flags() map[string]flag {
	return map[string]flag{
		"ro":         {unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, false},
		"rw":         {unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, true},
		"nosuid":     {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, false},
		"suid":       {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, true},
		"nodev":      {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, false},
		"dev":        {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, true},
		"noexec":     {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, false},
		"exec":       {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, true},
		"noatime":    {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME, false},
		"relatime":   {unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME, false},
		"nodiratime": {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, false},
		"sync":       {unix.MS_SYNCHRONOUS, 0, false},
		"dirsync":    {unix.MS_DIRSYNC, 0, false},
		"lazytime":   {unix.MS_LAZYTIME, 0, false},
	}
}

// parsed are the options of a mount step. Both forms are kept, since a step is either a new mount
// or a clone.
type parsed struct {
	mount      uintptr
	attr       unix.MountAttr
	recursive  bool
	data       []string
	propagates uint64
}

// parseOptions reads a step's options. The last of two options that contradict each other counts,
// as with mount(8). An option that is not known is data for the file system.
func parseOptions(options []string) parsed {
	known := flags()
	var p parsed
	for _, o := range options {
		switch o {
		case "bind", "defaults", "":
			continue
		case "rbind":
			p.recursive = true
			continue
		}
		if v, ok := propagation(o); ok {
			p.propagates = v
			continue
		}
		f, ok := known[o]
		switch {
		case !ok:
			p.data = append(p.data, o)
		case f.clear:
			p.mount &^= f.mount
			p.attr.Attr_set &^= f.attr
			p.attr.Attr_clr |= f.attr
		default:
			p.mount |= f.mount
			p.attr.Attr_set |= f.attr
			p.attr.Attr_clr &^= f.attr
		}
	}
	// Without the clear the kernel refuses a change of the mode.
	if p.attr.Attr_set&unix.MOUNT_ATTR_NOATIME != 0 {
		p.attr.Attr_clr |= unix.MOUNT_ATTR__ATIME // mount_setattr(2): times are a set of their own
	}
	return p
}

// propagation reads private, slave and shared, and their recursive forms: how far it goes is
// decided by bind or rbind.
func propagation(option string) (uint64, bool) {
	switch strings.TrimPrefix(option, "r") {
	case "private":
		return unix.MS_PRIVATE, true
	case "slave":
		return unix.MS_SLAVE, true
	case "shared":
		return unix.MS_SHARED, true
	}
	return 0, false
}
