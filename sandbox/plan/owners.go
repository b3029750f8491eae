// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/sandbox/guestapi"
)

// CutIDs takes an engine's map out of a root file system's mount: containerd's uidmap= and gidmap=.
// The kernel's mount knows no such options: the map becomes an id-mapped mount instead.
func CutIDs(m Mount) (Mount, oci.IDMap, error) {
	var ids oci.IDMap
	var options []string
	for _, o := range m.Options {
		var err error
		switch key, value, _ := strings.Cut(o, "="); key {
		case "uidmap":
			ids.UIDs, err = parseIDs(value)
		case "gidmap":
			ids.GIDs, err = parseIDs(value)
		default:
			options = append(options, o)
		}
		if err != nil {
			return m, ids, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if (ids.UIDs == nil) != (ids.GIDs == nil) {
		return m, ids, fmt.Errorf("%q: want both uidmap= and gidmap=, or none: %w", m.Options, errdefs.ErrInvalidArgument)
	}
	m.Options = options
	return m, ids, nil
}

// parseIDs reads CONTAINER:HOST:SIZE, with commas between them.
func parseIDs(list string) ([]oci.IDRange, error) {
	ranges, err := guestapi.ParseRanges(list)
	return convert[oci.IDRange](ranges), err
}

// Users is the guest's user namespace for a workload that asks for one. The zero value is "none".
func Users(ids oci.IDMap) guestapi.UserNamespace {
	return guestapi.UserNamespace{UIDs: convert[guestapi.IDRange](ids.UIDs), GIDs: convert[guestapi.IDRange](ids.GIDs)}
}

// convert carries ranges between two rooms that say the same of them.
func convert[To, From oci.IDRange | guestapi.IDRange](list []From) []To {
	var out []To
	for _, r := range list {
		out = append(out, To(r))
	}
	return out
}
