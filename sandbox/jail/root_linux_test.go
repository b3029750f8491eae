// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestRoot gives a running command two other roots, one after the other, and looks at them as
// others do.
func TestRoot(t *testing.T) {
	testenv.NeedRoot(t)
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewRoot(false)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"))
	in, out := pipe(t)
	echo, written := pipe(t)
	cmd.Dir, cmd.Stdin, cmd.Stdout = "/", in, written
	if err := (Jail{Root: e}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := echo.Read(make([]byte, 1)); err != nil { // it has loaded its libraries
		t.Fatal(err)
	}
	root := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/root"
	if _, err := os.Stat(root + "/proc/self"); err != nil {
		t.Errorf("before: %v", err)
	}
	for _, name := range []string{"one", "two"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		top := os.NewFile(uintptr(tree), dir)
		if err := VerifyRoot(cmd.Process.Pid, top); !errors.Is(err, ErrEscaped) {
			t.Errorf("VerifyRoot before = %v, want %v", err, ErrEscaped)
		}
		if err := errors.Join(e.Replace(tree), VerifyRoot(cmd.Process.Pid, top), top.Close()); err != nil {
			t.Fatal(err)
		}
		for _, link := range []string{root, filepath.Dir(root) + "/cwd"} {
			entries, err := os.ReadDir(link + "/")
			if err != nil || len(entries) != 1 || entries[0].Name() != name {
				t.Errorf("%s = %v, %v, want %s alone", link, entries, err, name)
			}
		}
		if mounts, err := os.ReadFile(filepath.Dir(root) + "/mounts"); err != nil || bytes.Count(mounts, []byte("\n")) != 1 {
			t.Errorf("mounts = %s, %v, want one", mounts, err)
		}
	}
	if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
		t.Errorf("this process is in %s, %v, want %s", after, err, before)
	}
	if err := errors.Join(out.Close(), cmd.Wait()); err != nil {
		t.Errorf("the command: %v", err)
	}
	<-e.ended // the end of the process is noticed on another thread
	if err := e.Replace(-1); err != nil {
		t.Errorf("Replace of a command that has ended: %v", err)
	}
}
