// SPDX-License-Identifier: Apache-2.0

package sandbox

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
	"cloister/sandbox/plan"
	"cloister/tests/testenv"
)

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
	testenv.NeedRoot(t)
	dir := t.TempDir()
	source, shared := filepath.Join(dir, "source"), filepath.Join(dir, "shared")
	give(t, filepath.Join(source, "of-5"), 5)
	give(t, filepath.Join(source, "beyond"), 3*shifted)
	if err := mappable(source, oci.Mount{IDs: shift()}); err != nil {
		t.Fatal(err)
	}
	ids, err := openUserNamespace(shift())
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Close()
	defer func() {
		if err := unmountBelow(shared); err != nil {
			t.Error(err)
		}
	}()
	if err := bindMount(source, shared, bindFlags{owners: ids}); err != nil {
		t.Fatal(err)
	}
	owner(t, filepath.Join(shared, "of-5"), shifted+5)
	owner(t, filepath.Join(shared, "beyond"), nobody)
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
	testenv.NeedRoot(t)
	testenv.NeedOverlay(t)
	for _, layers := range []int{1, 2, 100} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			dir := t.TempDir()
			var lowers []string
			for i := range layers {
				lower := filepath.Join(dir, strings.Repeat("long", 10), fmt.Sprint(i), "fs")
				give(t, filepath.Join(lower, fmt.Sprintf("from-%d", i)), i)
				lowers = append(lowers, lower)
			}
			for _, name := range []string{"upper", "work", "rootfs", "aside"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			mounts := []plan.Mount{{Type: "overlay", Source: "overlay", Options: []string{
				"uidmap=0:65536:65536", "gidmap=0:65536:65536", "workdir=" + filepath.Join(dir, "work"), "upperdir=" + filepath.Join(dir, "upper"),
				"lowerdir=" + strings.Join(lowers, ":"),
			}}}
			if err := mappableRootfs(mounts); err != nil {
				t.Fatal(err)
			}
			target, aside := filepath.Join(dir, "rootfs"), filepath.Join(dir, "aside")
			if err := mountRootfs(mounts, target, aside, labels.Label{}); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unmountBelow(target); err != nil {
					t.Error(err)
				}
			}()
			if left, err := os.ReadDir(aside); err != nil || len(left) > 0 {
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

func TestNoMap(t *testing.T) {
	testenv.NeedRoot(t)
	err := mappable("/sys/kernel", oci.Mount{IDs: shift()})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "id-mapped") {
		t.Errorf("a volume of sysfs: %v", err)
	}
	for _, m := range []oci.Mount{{}, {IDs: shift(), Purpose: oci.HostsFile}, {IDs: shift(), Purpose: oci.SharedMemory}} {
		if err := mappable("/sys/kernel", m); err != nil {
			t.Errorf("%v, of which no map is shown: %v", m, err)
		}
	}
	both := []string{"uidmap=0:1:1", "gidmap=0:1:1"}
	for _, mounts := range [][]Mount{
		{{Type: "overlay", Options: []string{"uidmap=0:1:1", "lowerdir=/a/b"}}},
		{{Type: "overlay", Options: []string{"uidmap=0:1", "gidmap=0:1:1", "lowerdir=/a/b"}}},
		{{Type: "ext4", Source: "/image", Options: append(both, "loop")}},
		{{Type: "erofs", Source: "/image", Options: []string{"loop"}}, {Type: "overlay", Options: append(both, "lowerdir=/a/b")}},
		{{Type: "bind", Source: "/sys/kernel", Options: both}},
	} {
		if err := mappableRootfs(mounts); err == nil || !strings.Contains(err.Error(), "uidmap=") {
			t.Errorf("%v: %v, want an error that names the option", mounts, err)
		}
	}
	if err := mappableRootfs([]Mount{{Type: "erofs", Source: "/image"}, {Type: "overlay"}}); err != nil {
		t.Errorf("no map: %v", err)
	}
}

func TestGuestUsers(t *testing.T) {
	if diff := cmp.Diff([]string{"cloister.uids=0:65536:65536", "cloister.gids=0:65536:65536"}, guestUsers(shift()).Parameters()); diff != "" {
		t.Errorf("kernel's line (-want +got):\n%s", diff)
	}
	if p := guestUsers(oci.IDMap{}).Parameters(); p != nil {
		t.Errorf("without a user namespace: %q", p)
	}
}
