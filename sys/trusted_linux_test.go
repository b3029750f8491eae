// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

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
