// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// instances counts this process's inotify instances.
func instances(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		name, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the folder's own descriptor is closed
			t.Fatal(err)
		}
		if name == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// TestOneInotifyInstanceForASandbox: root has few instances (128 by default), and each sandbox of
// the host has one of them, however many containers and files it has.
func TestOneInotifyInstanceForASandbox(t *testing.T) {
	before := instances(t)
	changes := NewChanges(func() {}, func(err error) { t.Errorf("the host has no watch: %v", err) })
	defer changes.Close() // nothing is written
	for container := range 5 {
		var list []*Copied
		for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
			dir := filepath.Join(t.TempDir(), strconv.Itoa(container))
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			folder, err := os.OpenFile(dir, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, &Copied{file: file, folder: folder, name: name})
		}
		defer closeCopies(list)
		changes.Follow(list)
	}
	if n := instances(t) - before; n != 1 {
		t.Errorf("5 containers with 3 copied files each have %d inotify instances, want 1", n)
	}
}

// fullEnv marks the child of TestFilesAreFollowedBeyondTheHostsLimits.
const fullEnv = "CLOISTER_TEST_INOTIFY_FULL"

// TestFilesAreFollowedBeyondTheHostsLimits has more sandboxes than the user may have inotify
// instances, or watches, as on a host with some 128 of them: changes of their files are still seen,
// if later. The limits are those of a user namespace here, and so no other test's.
func TestFilesAreFollowedBeyondTheHostsLimits(t *testing.T) {
	if os.Getenv(fullEnv) != "" {
		full(t)
		return
	}
	testenv.NeedRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), fullEnv+"=1")
	ids := []syscall.SysProcIDMap{{Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, out)
	}
}

func full(t *testing.T) {
	t.Helper()
	const instances, watches, sandboxes = 2, 3, 4
	for name, most := range map[string]int{"instances": instances, "watches": watches} {
		if err := os.WriteFile("/proc/sys/user/max_inotify_"+name, []byte(strconv.Itoa(most)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sandboxes {
		path := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		folder, err := os.OpenFile(filepath.Dir(path), unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		var reason error
		seen := make(chan string, 1000)
		changes := newChanges(func() {
			data, _ := os.ReadFile(path)
			seen <- string(data)
		}, func(err error) { reason = err }, 10*time.Millisecond)
		changes.Follow([]*Copied{{file: file, folder: folder, name: "hosts"}})
		// The first has an instance and two watches, the second an instance and one.
		want := map[int]string{1: "fs.inotify.max_user_watches", 2: "fs.inotify.max_user_instances", 3: "fs.inotify.max_user_instances"}[i]
		if want == "" && reason != nil || want != "" && (reason == nil || !strings.Contains(reason.Error(), want)) {
			t.Errorf("sandbox %d polls: %v, want %q", i+1, reason, want)
		}
		if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
			t.Fatal(err)
		}
		for data := range seen { // the test's own deadline ends a wait for ever
			if data == "changed" {
				break
			}
		}
		defer changes.Close() // nothing is written
	}
}
