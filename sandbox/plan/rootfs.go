// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Mount is one mount as an engine hands it over.
type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
}

// Disk is an image or a block device that becomes a disk of the machine. Read-only is enforced on
// the host: QEMU gets a descriptor that it cannot write to.
type Disk struct {
	Path     string
	ReadOnly bool
	// MkfsBytes is the size of the file system to make when Path does not exist yet; 0 for never.
	MkfsBytes int64
	MkfsUUID  string
}

// Rootfs says how a container's root file system reaches the guest: as mounts on the host that are
// shared, or as disks that the guest mounts itself.
type Rootfs struct {
	Host  []Mount // made on the host in order, each at the share's rootfs folder; empty for disks
	Disks []Disk
	Guest []Step // for disks: what the guest does, in order
}

// Step is one mount, or one folder made, in a container's folder in the guest.
type Step struct {
	Type    string
	OnDisk  bool   // the file system is on Disks[Disk]
	Disk    int    // index into the root file system's Disks
	Source  string // of a bind: relative to the container's folder; of an overlay: a name without meaning
	Target  string // relative to the container's folder
	Options []string
}

// NewRootfs decides how the mounts of a create request are honoured. isBlock says of each source
// whether it is a block device of the host. Layers named in the options of the guest's steps are
// relative to the container's folder. It is all or nothing: once one of the mounts is a disk, the
// guest makes all of them.
func NewRootfs(mounts []Mount, isBlock map[string]bool) (Rootfs, error) {
	if !slices.ContainsFunc(mounts, func(m Mount) bool { return wantsDisk(m, isBlock) }) {
		return Rootfs{Host: mounts}, nil
	}
	if i := slices.IndexFunc(mounts, hostUpper); i >= 0 {
		return Rootfs{},
			fmt.Errorf("rootfs mount %d (%s): a writable layer in a host folder over image layers on disks: set default_size "+
				"in the erofs snapshotter's config, so that the writable layer is a disk as well: %w",
				i, mounts[i].Type, errdefs.ErrNotImplemented)
	}
	var r Rootfs
	p := diskPlan{isBlock: isBlock}
	for i, m := range mounts {
		if err := p.add(&r, i, m, i == len(mounts)-1); err != nil {
			return Rootfs{}, fmt.Errorf("rootfs mount %d (%s %q): %w", i, m.Type, m.Source, err)
		}
	}
	return r, nil
}

// wantsDisk is true for image files and block devices, which are never mounted on the host.
func wantsDisk(m Mount, isBlock map[string]bool) bool {
	return slices.Contains(m.Options, "loop") || strings.HasPrefix(m.Type, "mkfs/") || isBlock[m.Source]
}

// hostUpper is true for an overlay whose writable layer is a folder of the host.
func hostUpper(m Mount) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool {
		return strings.HasPrefix(o, "upperdir=/") || strings.HasPrefix(o, "workdir=/")
	})
}

// guestFileSystems are those that both guest kernels mount from a disk. Another one is refused
// here, with its name, instead of in the guest.
func guestFileSystems() []string { return []string{"erofs", "ext4", "xfs"} }

// diskPlan is a root file system as far as it is planned. A mount may refer to those before it
// alone.
type diskPlan struct {
	isBlock map[string]bool
	layers  []string // guest folder of each mount so far
}

// add plans one mount. The last one is the root file system itself, those before it are its layers.
func (p *diskPlan) add(r *Rootfs, i int, m Mount, last bool) error {
	target := path.Join("layers", strconv.Itoa(i))
	if last {
		target = "rootfs"
	}
	p.layers = append(p.layers, target)
	if wantsDisk(m, p.isBlock) {
		return p.addDisk(r, m, target)
	}
	kinds := strings.Split(m.Type, "/")
	base := kinds[len(kinds)-1]
	if base != "overlay" && base != "bind" {
		return fmt.Errorf("cannot stand on top of disks: want overlay or bind: %w", errdefs.ErrNotImplemented)
	}
	for _, k := range kinds[:len(kinds)-1] {
		// Those that the shim claims in its -info. containerd sends no other.
		if k != "format" && k != "mkdir" {
			return fmt.Errorf("unknown transform %q: want format or mkdir: %w", k, errdefs.ErrNotImplemented)
		}
	}
	source, err := p.expand(m.Source)
	if err != nil {
		return err
	}
	step := Step{Type: base, Source: source, Target: target}
	for _, o := range m.Options {
		o, err := p.expand(o)
		if err != nil {
			return err
		}
		if dir, ok := strings.CutPrefix(o, "X-containerd.mkdir.path="); ok {
			name, mode, _ := strings.Cut(dir, ":")
			r.Guest = append(r.Guest, Step{Type: "mkdir", Target: name, Options: []string{"mode=" + mode}})
			continue
		}
		if strings.HasPrefix(o, "context=") { // the host's label says nothing in the guest
			continue
		}
		step.Options = append(step.Options, o)
	}
	r.Guest = append(r.Guest, step)
	return nil
}

// addDisk reads containerd's options of a disk. One that is not known is passed on to the guest's
// mount, but for containerd's own, which it would not know either.
func (p *diskPlan) addDisk(r *Rootfs, m Mount, target string) error {
	fsType := strings.TrimPrefix(m.Type, "mkfs/")
	if !slices.Contains(guestFileSystems(), fsType) {
		return fmt.Errorf("the guest mounts %s from disks: %w", strings.Join(guestFileSystems(), ", "), errdefs.ErrNotImplemented)
	}
	if !path.IsAbs(m.Source) {
		return fmt.Errorf("source is not an absolute path: %w", errdefs.ErrInvalidArgument)
	}
	d := Disk{Path: m.Source}
	step := Step{Type: fsType, OnDisk: true, Disk: len(r.Disks), Target: target}
	for _, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "loop", "context":
		case "X-containerd.mkfs.fs":
			if value != fsType {
				return fmt.Errorf("mkfs.fs=%s for a %s mount: %w", value, fsType, errdefs.ErrInvalidArgument)
			}
		case "X-containerd.mkfs.size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n <= 0 {
				return fmt.Errorf("mkfs.size=%s: want bytes: %w", value, errdefs.ErrInvalidArgument)
			}
			d.MkfsBytes = n
		case "X-containerd.mkfs.uuid":
			d.MkfsUUID = value
		case "device":
			return fmt.Errorf("option %s: layers spread over several devices: set max_unmerged_layers = 0 in the erofs "+
				"snapshotter's config: %w", o, errdefs.ErrNotImplemented)
		default:
			if strings.HasPrefix(key, "X-containerd.") {
				return fmt.Errorf("option %s: %w", o, errdefs.ErrNotImplemented)
			}
			step.Options = append(step.Options, o)
		}
	}
	if strings.HasPrefix(m.Type, "mkfs/") && d.MkfsBytes == 0 {
		return fmt.Errorf("mkfs without X-containerd.mkfs.size: %w", errdefs.ErrInvalidArgument)
	}
	// An image layer is shared by all containers of its image: a guest that could write to it would
	// write to all.
	d.ReadOnly = fsType == "erofs" || slices.Contains(step.Options, "ro")
	r.Disks = append(r.Disks, d)
	r.Guest = append(r.Guest, step)
	return nil
}

// template is containerd's mount templating: core/mount/manager of containerd 2.
func template() *regexp.Regexp {
	return regexp.MustCompile(`\{\{ *([a-z]+) +(\d+)(?: +(\d+))? *\}\}`)
}

// expand replaces templates by folders in the guest. An index that is not of an earlier mount is an
// error, whatever text the engine has around it.
func (p *diskPlan) expand(s string) (string, error) {
	bad := map[string]bool{}
	out := template().ReplaceAllStringFunc(s, func(t string) string {
		m := template().FindStringSubmatch(t)
		first, err := strconv.Atoi(m[2])
		if err != nil || first >= len(p.layers)-1 {
			bad[t] = true
			return ""
		}
		switch {
		case m[1] == "mount" && m[3] == "":
			return p.layers[first]
		case m[1] == "overlay":
			end, err := strconv.Atoi(m[3])
			if err != nil || end < first || end >= len(p.layers)-1 {
				break
			}
			return strings.Join(p.layers[first:end+1], ":")
		}
		bad[t] = true
		return ""
	})
	if len(bad) > 0 {
		return "", fmt.Errorf("template %q: not one of the mounts before it: %w", slices.Sorted(maps.Keys(bad)), errdefs.ErrInvalidArgument)
	}
	if strings.Contains(out, "{{") {
		return "", fmt.Errorf("template in %q: want {{ mount N }} or {{ overlay N M }}: %w", s, errdefs.ErrInvalidArgument)
	}
	return out, nil
}
