// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxRanges bounds a map: it goes to the guest on its kernel's line, whose length is limited.
const maxRanges = 8

// IDRange says that Size ids from Container on are those from Host on for whoever is in no user
// namespace.
type IDRange struct{ Container, Host, Size uint32 }

// IDMap is what a user namespace, or an id-mapped mount, makes of users and groups. Its zero value
// is none.
type IDMap struct{ UIDs, GIDs []IDRange }

// IsZero says that there is no map.
func (m IDMap) IsZero() bool { return len(m.UIDs)+len(m.GIDs) == 0 }

// Equal says that both make the same of every id, and list their ranges in one order. Maps that
// differ in their order alone count as different.
func (m IDMap) Equal(o IDMap) bool {
	return slices.Equal(m.UIDs, o.UIDs) && slices.Equal(m.GIDs, o.GIDs)
}

// Host is what a mount with the map shows of a file's owners; ok is false for one that has no id
// there, whom the kernel shows as nobody.
func (m IDMap) Host(uid, gid uint32) (_, _ uint32, ok bool) {
	uid, hasUser := onHost(m.UIDs, uid)
	gid, hasGroup := onHost(m.GIDs, gid)
	return uid, gid, hasUser && hasGroup
}

// onHost maps one id by the first range that has it.
func onHost(list []IDRange, id uint32) (uint32, bool) {
	for _, r := range list {
		if id >= r.Container && id-r.Container < r.Size {
			return r.Host + (id - r.Container), true
		}
	}
	return 0, false
}

// user checks the user namespace of linux.namespaces, and its mappings. One that exists is known by
// its mappings: the name that an engine gives for it, such as /proc/PID/ns/user, means nothing in a
// guest. Container id 0 must be mapped, since the runtime sets the container up as root of that
// namespace.
func (w *Workload) user(p *problems, listed bool) {
	l := w.spec.Linux
	if !listed {
		if len(l.UIDMappings)+len(l.GIDMappings) > 0 {
			p.refuse("linux.uidMappings", nil, "mappings need a user entry under linux.namespaces")
		}
		return
	}
	if len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0 {
		p.refuse("linux.uidMappings", nil, "a user namespace needs uidMappings and gidMappings")
	}
	w.Namespaces.IDs = p.idMap("linux", l.UIDMappings, l.GIDMappings)
	rooted := func(list []specs.LinuxIDMapping) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 })
	}
	if !rooted(l.UIDMappings) || !rooted(l.GIDMappings) {
		p.refuse("linux.uidMappings", fmt.Sprint(w.Namespaces.IDs),
			"container id 0 is not mapped, and its root sets the container up: map containerID 0 in uidMappings and gidMappings")
	}
	// Who joins a guest by its network joins the guest's one user namespace or none.
	if n := w.Namespaces.User; w.Role == Single && n.Pid != w.Namespaces.Network.Pid && n.Shared() {
		p.refuse("linux.namespaces", n.Path,
			"the user namespace does not belong to the container whose network is shared: leave its path out")
	}
}

// idMap checks mappings, which are the fields uidMappings and gidMappings of a section.
func (p *problems) idMap(section string, uids, gids []specs.LinuxIDMapping) IDMap {
	return IDMap{UIDs: p.ranges(section+".uidMappings", uids), GIDs: p.ranges(section+".gidMappings", gids)}
}

// ranges checks one list. Ids are 0 to 4294967294, and no two ranges have one in common, as the
// kernel demands of /proc/PID/uid_map.
func (p *problems) ranges(field string, list []specs.LinuxIDMapping) []IDRange {
	if len(list) > maxRanges {
		p.refuse(field, len(list), fmt.Sprintf("is more than %d ranges: join them", maxRanges))
		return nil
	}
	var out []IDRange
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > noID || uint64(m.HostID)+uint64(m.Size) > noID {
			p.refuse(at, fmt.Sprint(m), "is empty, or goes beyond the last id, 4294967294")
			continue
		}
		r := IDRange{Container: m.ContainerID, Host: m.HostID, Size: m.Size}
		if slices.ContainsFunc(out, r.overlaps) {
			p.refuse(at, fmt.Sprint(m), "overlaps an earlier mapping")
		}
		out = append(out, r)
	}
	return out
}

// overlaps says that two ranges share an id, inside or outside. The differences cannot wrap: each
// is taken from the larger one.
func (r IDRange) overlaps(o IDRange) bool {
	overlap := func(a, b uint32) bool { return max(a, b)-a < r.Size && max(a, b)-b < o.Size }
	return overlap(r.Container, o.Container) || overlap(r.Host, o.Host)
}

// mountIDs is the map of a bind mount: its own, or the container's where an option asks for one.
func (w *Workload) mountIDs(p *problems, field string, m specs.Mount) IDMap {
	asked := slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap")
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids)+len(gids) == 0 {
		if !asked {
			return IDMap{}
		}
		if w.spec.Linux != nil {
			uids, gids = w.spec.Linux.UIDMappings, w.spec.Linux.GIDMappings
		}
	}
	if len(uids) == 0 || len(gids) == 0 {
		p.refuse(field+".uidMappings", m.Destination,
			"an id-mapped mount needs both uidMappings and gidMappings, its own or the container's")
		return IDMap{}
	}
	return p.idMap(field, uids, gids)
}

// mappings are a map in the specification's form.
func mappings(list []IDRange) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, r := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: r.Container, HostID: r.Host, Size: r.Size})
	}
	return out
}
