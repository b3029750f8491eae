// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/tests/testenv"
)

// newShare makes a share whose two folders are own and view in a folder of the test's.
func newShare(t *testing.T) (s *Share, dir string) {
	t.Helper()
	testenv.NeedRoot(t)
	dir = t.TempDir()
	own, view := filepath.Join(dir, "own"), filepath.Join(dir, "view")
	for _, d := range []string{own, view} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	none := func(*os.File) error { return nil }
	s, err := NewShare(own, view, none, none, none)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

// bindOf is a workload's bind mounts of sources.
func bindOf(mounts ...oci.Mount) Container {
	for i := range mounts {
		mounts[i].Kind = oci.BindMount
		if mounts[i].Destination == "" {
			mounts[i].Destination = fmt.Sprintf("/m%d", i)
		}
	}
	return Container{ID: "a", Bundle: "/", Workload: &oci.Workload{Role: oci.Single, Mounts: mounts}}
}

// planned opens a container's files and plans it.
func planned(t *testing.T, c Container) (*Files, plan.Container) {
	t.Helper()
	files, found, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(files.Close)
	p, err := plan.NewContainer(plan.Request{
		ID: c.ID, Workload: c.Workload, Rootfs: c.Rootfs, Sources: found,
		Tokens: make([]string, len(found)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, p
}

func mustWrite(t *testing.T, name, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestWithContext(t *testing.T) {
	label, err := labels.Parse("system_u:object_r:cloister_rootfs_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	overlay := plan.Mount{Type: "overlay", Options: []string{"lowerdir=/l", `context="system_u:object_r:container_file_t:s0:c7,c9"`}}
	bind := plan.Mount{Type: "bind", Options: []string{"rbind", "rw"}}
	for _, test := range []struct {
		name  string
		mount plan.Mount
		label labels.Label
		want  []string
	}{
		{
			"the engine's label is replaced", overlay, label,
			[]string{"lowerdir=/l", `context="system_u:object_r:cloister_rootfs_t:s0:c1,c2"`},
		},
		{"and taken away where there are no labels", overlay, labels.Label{}, []string{"lowerdir=/l"}},
		{"a bind mount takes none", bind, label, []string{"rbind", "rw"}},
	} {
		if diff := cmp.Diff(test.want, WithContext(test.mount, test.label)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestOverlayOfManyLayers(t *testing.T) {
	testenv.NeedOverlay(t)
	s, dir := newShare(t)
	var lowers []string
	for i := range 100 {
		lower := filepath.Join(dir, strings.Repeat("long", 10), fmt.Sprint(i), "fs")
		if err := os.MkdirAll(lower, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lower, fmt.Sprintf("from-%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lowers = append(lowers, lower)
	}
	mounts := []plan.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lowers, ":")}}}
	top := mountRootfs(t, s, mounts)
	if files, err := os.ReadDir(top); err != nil || len(files) != 100 {
		t.Errorf("rootfs has %d files, %v, want one of each of 100 layers", len(files), err)
	}
}

// mountRootfs makes a container's root file system, and names its top.
func mountRootfs(t *testing.T, s *Share, mounts []plan.Mount) string {
	t.Helper()
	if err := s.AddContainer("a"); err != nil {
		t.Fatal(err)
	}
	top, err := s.MountRootfs("a", plan.Rootfs{Host: mounts}, &Files{}, labels.Label{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(top.Close(), s.RemoveContainer("a")); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(s.view.Name(), guestapi.ShareRootfs("a"))
}

// TestShareIsReadOnly has a guest's part: it can change nothing on the way to a mount.
func TestShareIsReadOnly(t *testing.T) {
	s, dir := newShare(t)
	mustWrite(t, filepath.Join(dir, "v", "file"), "x")
	files, p := planned(t, bindOf(oci.Mount{Source: filepath.Join(dir, "v")}))
	use, err := NewVolumes(s).Add(p.Volumes[0], files)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddContainer("a"); err != nil {
		t.Fatal(err)
	}
	view := s.view.Name()
	volume := filepath.Join(view, guestapi.ShareVolume(use.Name))
	for name, try := range map[string]func() error{
		"make a file":       func() error { return os.WriteFile(filepath.Join(view, "f"), nil, 0o600) },
		"make a folder":     func() error { return os.Mkdir(filepath.Join(view, "c", "a", "m"), 0o755) },
		"make a link":       func() error { return os.Symlink("/", filepath.Join(view, "c", "a", "rootfs")) },
		"rename":            func() error { return os.Rename(filepath.Join(view, "c"), filepath.Join(view, "d")) },
		"remove":            func() error { return os.Remove(filepath.Join(view, "c", "a")) },
		"change the mode":   func() error { return os.Chmod(view, 0o777) },
		"link from a mount": func() error { return os.Link(filepath.Join(volume, "file"), filepath.Join(view, "hard")) },
	} {
		if err := try(); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EXDEV) {
			t.Errorf("%s = %v, want EROFS", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "new"), nil, 0o600); err != nil {
		t.Errorf("write to a volume: %v", err)
	}
	if err := errors.Join(use.Release(), s.RemoveContainer("a")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"c", "v"} {
		if left, err := os.ReadDir(filepath.Join(view, name)); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", name, left, err)
		}
	}
}

func TestVolumeIsSharedByContainers(t *testing.T) {
	s, dir := newShare(t)
	source := filepath.Join(dir, "v")
	mustWrite(t, filepath.Join(source, "file"), "x")
	if err := os.Symlink("v", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	volumes := NewVolumes(s)
	add := func(m oci.Mount) *Use {
		files, p := planned(t, bindOf(m))
		use, err := volumes.Add(p.Volumes[0], files)
		if err != nil {
			t.Fatal(err)
		}
		return use
	}
	writable := func(u *Use, want bool) {
		t.Helper()
		err := os.WriteFile(filepath.Join(s.view.Name(), guestapi.ShareVolume(u.Name), "new"), nil, 0o600)
		if (err == nil) != want {
			t.Errorf("write to volume %s: %v, want writable %t", u.Name, err, want)
		}
	}
	first := add(oci.Mount{Source: source, ReadOnly: true, Recursive: true})
	writable(first, false)
	second := add(oci.Mount{Source: filepath.Join(dir, "link"), Recursive: true})
	if first.Name != second.Name {
		t.Errorf("one folder is the volumes %s and %s", first.Name, second.Name)
	}
	writable(first, true)
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
	writable(first, false)
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if third := add(oci.Mount{Source: source}); third.Name == first.Name {
		t.Error("the name of a volume that is gone was used again")
	}
}

func TestReadOnlyOfTheHostStays(t *testing.T) {
	s, dir := newShare(t)
	source := filepath.Join(dir, "v")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, source, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(source, unix.MNT_DETACH) })
	if err := unix.Mount("", source, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	volumes := NewVolumes(s)
	for _, readOnly := range []bool{true, false} {
		files, p := planned(t, bindOf(oci.Mount{Source: source, ReadOnly: readOnly}))
		use, err := volumes.Add(p.Volumes[0], files)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.view.Name(), guestapi.ShareVolume(use.Name), "new"), nil,
			0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a folder that the host has read-only = %v, want EROFS", err)
		}
	}
}

func TestVolumeWithMountsBelow(t *testing.T) {
	s, dir := newShare(t)
	source, below := filepath.Join(dir, "source"), filepath.Join(dir, "source", "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	mustWrite(t, filepath.Join(source, "file"), "x")
	volumes := NewVolumes(s)
	names := map[string]bool{}
	for _, tt := range []struct {
		name       string
		mount      oci.Mount
		top, below bool // writable
	}{
		{"writable", oci.Mount{Source: source, Recursive: true}, true, true},
		{"read-only with all below", oci.Mount{Source: source, Recursive: true, ReadOnly: true, RecursiveRO: true}, false, false},
		{"read-only itself", oci.Mount{Source: source, Recursive: true, ReadOnly: true}, false, true},
	} {
		files, p := planned(t, bindOf(tt.mount))
		use, err := volumes.Add(p.Volumes[0], files)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		names[use.Name] = true
		at := filepath.Join(s.view.Name(), guestapi.ShareVolume(use.Name))
		for name, want := range map[string]bool{"new": tt.top, "below/new": tt.below} {
			if err := os.WriteFile(filepath.Join(at, name), nil, 0o600); (err == nil) != want {
				t.Errorf("%s: write %s: %v, want ok %t", tt.name, name, err, want)
			}
		}
	}
	if len(names) != 3 {
		t.Errorf("%d volumes, want three: their mounts below differ", len(names))
	}
	files, p := planned(t, bindOf(oci.Mount{Source: filepath.Join(source, "file")}))
	use, err := volumes.Add(p.Volumes[0], files)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(s.view.Name(), guestapi.ShareVolume(use.Name))); err != nil || string(data) != "x" {
		t.Errorf("a single file = %q, %v, want x", data, err)
	}
}

const shifted = 65536

func shift() oci.IDMap {
	list := []oci.IDRange{{Container: 0, Host: shifted, Size: shifted}}
	return oci.IDMap{UIDs: list, GIDs: list}
}

// owner fails unless the file is a user's.
func owner(t *testing.T, name string, want uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Uid != want || st.Gid != want {
		t.Errorf("%s is owned by %d:%d, %v, want %d", name, st.Uid, st.Gid, err, want)
	}
}

// give makes a file of somebody's.
func give(t *testing.T, name string, uid int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Chown(name, uid, uid)); err != nil {
		t.Fatal(err)
	}
}

func TestMappedVolume(t *testing.T) {
	s, dir := newShare(t)
	source := filepath.Join(dir, "source")
	give(t, filepath.Join(source, "of-5"), 5)
	give(t, filepath.Join(source, "beyond"), 3*shifted)
	files, p := planned(t, bindOf(oci.Mount{Source: source, IDs: shift()}))
	use, err := NewVolumes(s).Add(p.Volumes[0], files)
	if err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(s.view.Name(), guestapi.ShareVolume(use.Name))
	owner(t, filepath.Join(shared, "of-5"), shifted+5)
	owner(t, filepath.Join(shared, "beyond"), 65534)
	if err := os.Chown(filepath.Join(shared, "of-5"), shifted+7, shifted+7); err != nil {
		t.Error(err)
	}
	owner(t, filepath.Join(source, "of-5"), 7)
	if err := os.Chown(filepath.Join(shared, "of-5"), 7, 7); err == nil {
		t.Error("an owner beyond the map was given")
	}
	if err := os.WriteFile(filepath.Join(shared, "new"), nil, 0o600); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("a file of an owner beyond the map: %v, want EOVERFLOW", err)
	}
}

func TestMappedLayers(t *testing.T) {
	testenv.NeedOverlay(t)
	for _, layers := range []int{1, 2, 100} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			s, dir := newShare(t)
			var lowers []string
			for i := range layers {
				lower := filepath.Join(dir, strings.Repeat("long", 10), fmt.Sprint(i), "fs")
				give(t, filepath.Join(lower, fmt.Sprintf("from-%d", i)), i)
				lowers = append(lowers, lower)
			}
			for _, name := range []string{"upper", "work"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			mounts := []plan.Mount{{Type: "overlay", Source: "overlay", Options: []string{
				"uidmap=0:65536:65536", "gidmap=0:65536:65536", "workdir=" + filepath.Join(dir, "work"),
				"upperdir=" + filepath.Join(dir, "upper"),
				"lowerdir=" + strings.Join(lowers, ":"),
			}}}
			if err := MappableRootfs(mounts); err != nil {
				t.Fatal(err)
			}
			target := mountRootfs(t, s, mounts)
			if left, err := filepath.Glob(filepath.Join(s.own.Name(), "layers*")); err != nil || len(left) > 0 {
				t.Errorf("left beside the share: %v, %v", left, err)
			}
			for i := range layers {
				owner(t, filepath.Join(target, fmt.Sprintf("from-%d", i)), uint32(shifted+i))
			}
			if err := os.Chown(filepath.Join(target, "from-0"), shifted+9, shifted+9); err != nil {
				t.Error(err)
			}
			owner(t, filepath.Join(dir, "upper", "from-0"), shifted+9)
			owner(t, filepath.Join(lowers[0], "from-0"), 0)
		})
	}
}

func TestUnmappableMountsAreRefused(t *testing.T) {
	testenv.NeedRoot(t)
	plain := func(m oci.Mount) error {
		m.Source = "/dev/pts"
		c := bindOf(m)
		files, found, err := Open(c)
		if err != nil {
			return err
		}
		defer files.Close()
		_, err = plan.NewContainer(plan.Request{ID: c.ID, Workload: c.Workload, Sources: found, Tokens: make([]string, 1)})
		return err
	}
	if err := plain(oci.Mount{IDs: shift()}); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "id-mapped") {
		t.Errorf("a volume of sysfs: %v", err)
	}
	for _, m := range []oci.Mount{{}, {IDs: shift(), Purpose: oci.SharedMemory}} {
		if err := plain(m); err != nil {
			t.Errorf("%v, of which no map is shown: %v", m, err)
		}
	}
	both := []string{"uidmap=0:1:1", "gidmap=0:1:1"}
	for _, mounts := range [][]plan.Mount{
		{{Type: "overlay", Options: []string{"uidmap=0:1:1", "lowerdir=/a/b"}}},
		{{Type: "overlay", Options: []string{"uidmap=0:1", "gidmap=0:1:1", "lowerdir=/a/b"}}},
		{{Type: "ext4", Source: "/image", Options: append(both, "loop")}},
		{{Type: "erofs", Source: "/image", Options: []string{"loop"}}, {Type: "overlay", Options: append(both, "lowerdir=/a/b")}},
		{{Type: "bind", Source: "/dev/pts", Options: both}},
	} {
		if err := MappableRootfs(mounts); err == nil || !strings.Contains(err.Error(), "uidmap=") {
			t.Errorf("%v: %v, want an error that names the option", mounts, err)
		}
	}
	if err := MappableRootfs([]plan.Mount{{Type: "erofs", Source: "/image"}, {Type: "overlay"}}); err != nil {
		t.Errorf("no map: %v", err)
	}
}
