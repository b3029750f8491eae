// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// watching opens an instance that watches the file at a path, by its descriptor alone.
func watching(t *testing.T, name string, mask uint32) (Inotify, int) {
	t.Helper()
	i, err := NewInotify()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	f, err := os.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	watch, err := i.Add(f, mask)
	if err != nil {
		t.Fatal(err)
	}
	return i, watch
}

type event struct {
	watch int
	mask  uint32
	name  string
}

// next gives as many events as are wanted.
func next(t *testing.T, i Inotify, want int) (got []event) {
	t.Helper()
	for len(got) < want {
		if err := i.Next(func(watch int, mask uint32, name string) error {
			got = append(got, event{watch, mask, name})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// TestInotifyNamesEntries has names of several lengths, which the kernel pads.
func TestInotifyNamesEntries(t *testing.T) {
	dir := t.TempDir()
	i, watch := watching(t, dir, unix.IN_CREATE)
	names := []string{"a", "exactly-sixteen-", "longer than sixteen bytes"}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for n, got := range next(t, i, len(names)) {
		if want := (event{watch, unix.IN_CREATE | unix.IN_ISDIR, names[n]}); got != want {
			t.Errorf("event %d = %+v, want %+v", n, got, want)
		}
	}
}

// TestInotifyWatchesTheOpenFile has another file in the watched one's place.
func TestInotifyWatchesTheOpenFile(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "f")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	i, watch := watching(t, old, unix.IN_CLOSE_WRITE)
	if err := errors.Join(os.Rename(old, old+".old"), os.WriteFile(old, nil, 0o600), os.WriteFile(old+".old", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	i.Remove(watch)
	want := []event{{watch, unix.IN_CLOSE_WRITE, ""}, {watch, unix.IN_IGNORED, ""}}
	if got := next(t, i, 2); got[0] != want[0] || got[1] != want[1] || len(got) != 2 {
		t.Errorf("events = %+v, want %+v", got, want)
	}
	i.Remove(watch) // again: it is gone
}

// TestInotifyAddKeepsOneWatch adds a file twice.
func TestInotifyAddKeepsOneWatch(t *testing.T) {
	dir := t.TempDir()
	i, watch := watching(t, dir, unix.IN_CREATE)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if again, err := i.Add(f, unix.IN_DELETE|unix.IN_MASK_ADD); again != watch || err != nil {
		t.Errorf("Add = %d, %v, want %d", again, err, watch)
	}
	made := filepath.Join(dir, "f")
	if err := errors.Join(os.Mkdir(made, 0o700), os.Remove(made)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, i, 2); got[1].mask != unix.IN_DELETE|unix.IN_ISDIR {
		t.Errorf("events = %+v, want both", got)
	}
}

func TestInotifyClose(t *testing.T) {
	i, _ := watching(t, t.TempDir(), unix.IN_CREATE)
	ended := make(chan error)
	go func() { ended <- i.Next(nil) }()
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next = %v, want os.ErrClosed", err)
	}
	if _, err := i.Add(os.Stdin, unix.IN_MODIFY); err == nil {
		t.Error("Add to an instance that is closed gives no error")
	}
}

// limitEnv marks the child of TestInotifyLimitNamesTheSysctl.
const limitEnv = "CLOISTER_TEST_INOTIFY_LIMIT"

// TestInotifyLimitNamesTheSysctl has a user reach the limit of instances, as root does on a host
// with some 128 sandboxes. The limit is that of a user namespace here, and so no other test's.
func TestInotifyLimitNamesTheSysctl(t *testing.T) {
	if os.Getenv(limitEnv) != "" {
		atLimit(t)
		return
	}
	testenv.NeedRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), limitEnv+"=1")
	ids := []syscall.SysProcIDMap{{Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, out)
	}
}

func atLimit(t *testing.T) {
	t.Helper()
	const most = 2
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(strconv.Itoa(most)), 0); err != nil {
		t.Fatal(err)
	}
	for range most {
		i, err := NewInotify()
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close() // nothing is written
	}
	if i, err := NewInotify(); !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "fs.inotify.max_user_instances") {
		t.Errorf("instance %d = %v, %v, want %v with the sysctl's name", most+1, i, err, unix.EMFILE)
	}
}
