// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"cloister/oci"
)

// VolumeKey tells which bind mounts of a sandbox are one volume. The guest's kernel has one
// superblock for each volume: only within one do sockets, FIFOs, locks, shared mappings, renames
// and inotify events meet. It is comparable, and so the key of a map. Everything that the guest
// could see a difference by is in it.
type VolumeKey struct {
	File      FileID
	Recursive bool // with what is mounted below it
	Follows   bool // with what the host mounts below it later
	// ReadOnlyBelow is whether mounts below it are read-only, too.
	ReadOnlyBelow bool
	// HostReadOnly is for a volume that is read-only while what is mounted below it may be
	// writable. The guest's kernel hands read-only down to every mount below, so the host alone can
	// enforce it.
	HostReadOnly bool
	Owners       string // the map of its files' owners
	OwnersBelow  bool
}

// newVolumeKey leaves out options about what is mounted below where nothing is: two mounts that
// differ in them alone are one volume.
func newVolumeKey(m oci.Mount, s Source) VolumeKey {
	k := VolumeKey{File: s.ID, Follows: m.Follows(), HostReadOnly: m.ReadOnly && m.WritableBelow(s.MountsBelow)}
	if s.MountsBelow || k.Follows {
		k.Recursive = m.Recursive
		k.ReadOnlyBelow = m.Recursive && m.RecursiveRO
	}
	if !m.IDs.IsZero() {
		k.Owners, k.OwnersBelow = fmt.Sprint(m.IDs), m.MapsBelow && k.Recursive
	}
	return k
}
