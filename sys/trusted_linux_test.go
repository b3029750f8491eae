// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestWhatOthersMayMakeIsNotTrusted: in a sticky folder that all may write to, as in /tmp, a name
// that is not there yet is anybody's.
func TestWhatOthersMayMakeIsNotTrusted(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	shared := filepath.Join(dir, "shared")
	mine := filepath.Join(shared, "mine")
	group := filepath.Join(dir, "group")
	err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777|os.ModeSticky), os.Mkdir(mine, 0o755),
		os.Mkdir(group, 0o700), os.Chown(group, 0, 65534), os.Chmod(group, 0o770|os.ModeSticky),
		os.Symlink(shared+"/absent", dir+"/link"))
	if err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{
		mine: true, mine + "/absent": true, dir + "/absent": true, dir + "/absent/below": true,
		shared + "/absent": false, shared + "/absent/below": false, mine + "/../absent": false,
		dir + "/link": false, group + "/absent": false,
	} {
		err := Trusted(path)
		refused := errors.Is(err, errdefs.ErrPermissionDenied) && strings.Contains(err.Error(), "absent")
		if refused == ok || err != nil && ok {
			t.Errorf("Trusted(%s) = %v, want it trusted: %v", strings.TrimPrefix(path, dir), err, ok)
		}
	}
}

// TestListOfAStickyFolder: where an access control list lets somebody make entries in a sticky
// folder of root's group, a name that is not there yet is theirs; root's entries stay root's.
func TestListOfAStickyFolder(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	shared, mine := filepath.Join(dir, "shared"), filepath.Join(dir, "shared/mine")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o770|os.ModeSticky), os.Mkdir(mine, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := Trusted(shared + "/absent"); err != nil {
		t.Fatalf("Trusted below a folder of root's group = %v", err)
	}
	// Version 2: owner rwx, user 65534 rwx, group r-x, mask rwx, others nothing. An entry is tag,
	// permissions and id (include/uapi/linux/posix_acl_xattr.h).
	list := binary.LittleEndian.AppendUint32(nil, 2)
	const none = 1<<32 - 1
	for _, e := range [][3]uint32{{0x01, 7, none}, {0x02, 7, 65534}, {0x04, 5, none}, {0x10, 7, none}, {0x20, 0, none}} {
		list = binary.LittleEndian.AppendUint16(list, uint16(e[0]))
		list = binary.LittleEndian.AppendUint16(list, uint16(e[1]))
		list = binary.LittleEndian.AppendUint32(list, e[2])
	}
	if err := unix.Setxattr(shared, "system.posix_acl_access", list, 0); err != nil {
		testenv.Need(t, testenv.Root, shared+" takes no access control lists: "+err.Error())
	}
	if err := Trusted(mine); err != nil {
		t.Errorf("Trusted(mine) = %v", err)
	}
	if err := Trusted(shared + "/absent"); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("Trusted(absent) = %v, want %v", err, errdefs.ErrPermissionDenied)
	}
}

// TestProgramOfOthersIsRefused: root runs no program that another user could replace, whether it is
// named by its path or found in PATH.
func TestProgramOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "program")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for _, called := range []string{name, "program"} {
		if path, err := Program(called); err != nil || path != name {
			t.Errorf("Program(%s) = %q, %v, want %s", called, path, err, name)
		}
	}
	if _, err := Program("absent"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Program of a name that is not there = %v, want %v", err, exec.ErrNotFound)
	}
	if err := os.Chown(name, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	for _, called := range []string{name, "program"} {
		_, err := Program(called)
		if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "chown root:root "+name) {
			t.Errorf("Program(%s) of another's = %v, want a refusal with the remedy", called, err)
		}
	}
}
