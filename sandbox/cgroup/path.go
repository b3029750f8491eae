// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// defaultParent is where sandboxes go whose engine names no cgroup.
const defaultParent = "/cloister"

// maxPath bounds a cgroup path: PATH_MAX, less the mount point and a file name. A path beyond it
// would give ENAMETOOLONG after the first effect; so it is refused while nothing has happened.
const maxPath = 3500

// Leaf gives the sandbox's cgroup, relative to a hierarchy's root. It is the one that the engine
// has named if that ends in the sandbox's id: the kubelet finds a pod's statistics by it. Else it
// is named after the sandbox, beside the container's of cgroupsPath. That is a path, or
// SLICE:PREFIX:NAME as systemd's drivers write it. Leaf is pure: nothing is made, and whether the
// parent exists does not matter. Errors are errdefs.ErrInvalidArgument and name the field. A "..",
// which path.Join resolves, cannot lead above a hierarchy's root.
func Leaf(cgroupsPath, id string) (string, error) {
	name := leafName(id)
	if id == "" || strings.ContainsAny(id, "/\x00\n") || len(name) > 255 {
		return "", fmt.Errorf("cgroup of sandbox %.80q: not a file name: %w", id, errdefs.ErrInvalidArgument)
	}
	parent := defaultParent
	parts := strings.Split(cgroupsPath, ":")
	switch {
	case cgroupsPath == "":
	// A slash in the first part makes it a path whose names happen to have colons, as a cgroupfs
	// driver may give.
	case len(parts) == 3 && !strings.Contains(parts[0], "/"):
		slice, err := expandSlice(parts[0])
		if err != nil {
			return "", fmt.Errorf("linux.cgroupsPath %.200q: %w", cgroupsPath, err)
		}
		parent, name = slice, name+scope
	default:
		var last string
		parent, last = path.Split(path.Join("/", cgroupsPath))
		if last == id {
			// cAdvisor, and with it the kubelet, knows a container by the last part of its group's
			// path. With a slice it reads only the last part of a scope's name, so
			// cloister-ID.scope is found as it is.
			name = id
		}
	}
	if len(parent) > maxPath || strings.ContainsAny(parent, "\x00\n") {
		return "", fmt.Errorf("linux.cgroupsPath %.80q: too long, or not a path: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}
	return path.Join(parent, name), nil
}

// Given gives the leaf of a container in class process, relative to a hierarchy's root, and whether
// systemd makes it. An OCI runtime makes the group; the record must name it before. Paths in which
// runtimes differ are resolved here: runc starts a relative one in its own group, and crun makes
// every folder before a "..". The runtime gets the leaf instead, or with systemd cgroupsPath
// itself. An empty path and one that names no group are errdefs.ErrInvalidArgument.
func Given(cgroupsPath string) (leaf string, systemd bool, err error) {
	parts := strings.Split(cgroupsPath, ":")
	switch {
	case cgroupsPath == "":
		return "", false, fmt.Errorf("linux.cgroupsPath is empty: %w", errdefs.ErrInvalidArgument)
	case len(cgroupsPath) > maxPath || strings.ContainsAny(cgroupsPath, "\x00\n"):
		return "", false, fmt.Errorf("linux.cgroupsPath %.80q: too long, or not a path: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	case len(parts) != 3 || strings.Contains(parts[0], "/"):
		if leaf = path.Join("/", cgroupsPath); leaf == "/" {
			return "", false, fmt.Errorf("linux.cgroupsPath %.200q is the root of all cgroups: name one below it, as /cloister/ID: %w",
				cgroupsPath, errdefs.ErrInvalidArgument)
		}
		return leaf, false, nil
	case strings.Contains(parts[1]+parts[2], "/"):
		return "", true, fmt.Errorf("linux.cgroupsPath %.200q: a slash in the name of a unit: want SLICE:PREFIX:NAME: %w",
			cgroupsPath, errdefs.ErrInvalidArgument)
	}
	slice, err := expandSlice(parts[0])
	if err != nil {
		return "", true, fmt.Errorf("linux.cgroupsPath %.200q: %w", cgroupsPath, err)
	}
	name := parts[2]
	if parts[1] != "" {
		name = parts[1] + "-" + name
	}
	// As runc does: a name that ends in .slice is a unit of its own.
	if !strings.HasSuffix(name, ".slice") {
		name += scope
	}
	return path.Join(slice, name), true, nil
}

// scope ends the name of a leaf in a slice of systemd's.
const scope = ".scope"

// leafName is what a sandbox's leaf is called, but for scope. The prefix tells a sandbox's leaf
// from a group of the engine's that has the bare id.
func leafName(id string) string { return "cloister-" + id }

// expandSlice gives the path of a slice: each dash is a level (systemd.slice(5)). The slice
// a-b.slice is /a.slice/a-b.slice; "-.slice" is the root, and no slice at all is system.slice, the
// default of systemd's drivers. A cgroupsPath is the pod author's in part: depth and length are
// bounded.
func expandSlice(slice string) (string, error) {
	if slice == "" {
		return "/system.slice", nil
	}
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok {
		return "", fmt.Errorf("%.80q does not end in .slice: %w", slice, errdefs.ErrInvalidArgument)
	}
	if name == "-" {
		return "/", nil
	}
	out, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("slice %.80q has an empty level: %w", slice, errdefs.ErrInvalidArgument)
		}
		prefix += part
		out = path.Join(out, prefix+".slice")
		prefix += "-"
		if len(out) > maxPath {
			return "", fmt.Errorf("slice %.80q is too deep: %w", slice, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}
