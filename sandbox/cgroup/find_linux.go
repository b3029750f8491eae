// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"io/fs"
	"path/filepath"
	"slices"
)

// Find lists the leaves on this host that carry the name of a sandbox, in any parent. Two engines
// may have sandboxes of one name, and a leaf that has the bare id as its name may be anybody's.
// Find is for a sandbox whose record cannot be read. The caller must tell by the processes' marks
// whether a leaf is the sandbox's own before it kills anything in it.
func Find(id string) ([]*Group, error) {
	hosts, err := hierarchies(realFiles{}, used)
	if err != nil {
		return nil, err
	}
	var leaves []string
	for _, h := range hosts {
		// Groups come and go during the walk. One that has gone is no leaf of a dead sandbox, so no
		// error of the walk counts.
		_ = filepath.WalkDir(h.mount, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil //nolint:nilerr // a cgroup that has gone meanwhile
			}
			if name := d.Name(); name == leafName(id) || name == leafName(id)+scope || name == id {
				leaves = append(leaves, path[len(h.mount):])
			}
			return nil
		})
	}
	slices.Sort(leaves)
	var out []*Group
	for _, leaf := range slices.Compact(leaves) {
		g, err := At(leaf)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}
