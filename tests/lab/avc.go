// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloister/labels"
	"cloister/labels/policy"
)

// denial is one AVC record.
type denial struct {
	PID            int
	Command        string
	Source, Target labels.Label
	Class          string
	Permissions    []string
	// Permissive says that the access was logged and let through.
	Permissive bool
	// Path is the path or name, when the record has one.
	Path string
	Text string
}

// parseDenial reads an audit record. Records that are not denials give false.
func parseDenial(record string) (denial, bool) {
	_, rest, found := strings.Cut(record, "avc:  denied  { ")
	if !found {
		return denial{}, false
	}
	permissions, rest, found := strings.Cut(rest, " }")
	if !found {
		return denial{}, false
	}
	d := denial{Permissions: strings.Fields(permissions), Text: record}
	for field := range strings.FieldsSeq(rest) {
		key, value, found := strings.Cut(field, "=")
		if !found {
			continue
		}
		var err error
		switch key {
		case "pid":
			d.PID, err = strconv.Atoi(value)
		case "comm":
			d.Command = strings.Trim(value, `"`)
		case "path", "name":
			if d.Path == "" {
				d.Path = strings.Trim(value, `"`)
			}
		case "scontext":
			d.Source, err = labels.Parse(value)
		case "tcontext":
			d.Target, err = labels.Parse(value)
		case "tclass":
			d.Class = value
		case "permissive":
			d.Permissive = value == "1"
		}
		if err != nil {
			return denial{}, false
		}
	}
	return d, d.Class != "" && !d.Source.IsZero() && !d.Target.IsZero()
}

// denials reads many records.
func denials(records []string) []denial {
	var list []denial
	for _, record := range records {
		if d, ok := parseDenial(record); ok {
			list = append(list, d)
		}
	}
	return list
}

// want is the denial that proves an attempt: who was denied what, on what.
type want struct {
	source, target    string // types
	class, permission string
}

func (w want) String() string {
	if w == (want{}) {
		return "the shim's own doing"
	}
	return fmt.Sprintf("%s -> %s:%s { %s }", w.source, w.target, w.class, w.permission)
}

// in tells whether the denial is among those given. levels is the source's and the target's; an
// empty target's level is any.
func (w want) in(list []denial, source, target string) bool {
	return slices.ContainsFunc(list, func(d denial) bool {
		return d.Source.Type == w.source && d.Target.Type == w.target && d.Class == w.class &&
			slices.Contains(d.Permissions, w.permission) &&
			d.Source.Range.String() == source && (target == "" || d.Target.Range.String() == target)
	})
}

// silent tells a denial that the module does not log outside of the lab: what QEMU asks for at each
// start and does well without, and what the kernel asks for when a plain container opens its own
// output by name.
func silent(d denial) bool {
	if d.Source.Type == policy.ContainerType {
		return d.Class == "dir" && d.Target.Type == d.Source.Type && slices.Equal(d.Permissions, []string{"write"})
	}
	if d.Source.Type != policy.QEMUType && d.Source.Type != policy.QEMUTCGType {
		return false
	}
	switch d.Class {
	case "anon_inode":
		return d.Target.Type == d.Source.Type
	case "dir":
		return slices.Contains([]string{"debugfs_t", "selinux_config_t", "sysfs_t"}, d.Target.Type)
	case "file":
		return slices.Contains([]string{"etc_t", "sysfs_t"}, d.Target.Type)
	case "filesystem":
		return d.Target.Type == "security_t"
	}
	return false
}

// beside tells a denial that --cgroups=split brings where Podman is unconfined, as on Debian. The
// group of the container has conmon's beside it. To enable cpuset for both, the kernel asks whether
// the shim or its OCI runtime may change conmon's scheduling. Both do without cpuset then.
func beside(d denial) bool {
	return d.Source.Type == policy.ShimType && d.Target.Type == "unconfined_t" && d.Class == "process" &&
		slices.Equal(d.Permissions, []string{"setsched"})
}
