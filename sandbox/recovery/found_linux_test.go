// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/network"
	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
)

// remains are what a dead shim has left: a process with the sandbox's mark, its cgroup, a
// claimed namespace that an engine keeps, and the folder.
type remains struct {
	dir     statedir.Dir
	process *exec.Cmd
	group   *cgroup.Group
	netns   string
	ports   string // of the namespace, before it was claimed
}

func leave(t *testing.T, state, id, cgroupsPath string) remains {
	t.Helper()
	dir, err := statedir.New(state, "default", id)
	if err != nil {
		t.Fatal(err)
	}
	j, err := statedir.Create(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil { // the owner is gone
		t.Fatal(err)
	}
	r := remains{dir: dir, netns: filepath.Join(t.TempDir(), "netns")}
	ns, err := network.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, r.ports, err = ns.Identity(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd()), r.netns, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(r.netns, unix.MNT_DETACH) })
	if err := ns.KeepHostPorts(); err != nil {
		t.Fatal(err)
	}
	r.process = exec.CommandContext(t.Context(), "nsenter", "--net="+r.netns, "sleep", "600")
	r.process.Env = append(os.Environ(), dir.Marker())
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.process.Process.Kill() })
	identity, _, err := ns.Identity()
	if err != nil {
		t.Fatal(err)
	}
	for !network.InNamespace(r.process.Process.Pid, identity) { // nsenter has not come that far
		if t.Context().Err() != nil {
			t.Fatal("nsenter did not enter the namespace")
		}
		time.Sleep(time.Millisecond)
	}
	leaf, err := cgroup.Leaf(cgroupsPath, id)
	if err != nil {
		t.Fatal(err)
	}
	if r.group, err = cgroup.At(leaf); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.group.Create(cgroup.Limits{}), r.group.Add(r.process.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the test's context has ended by then, and the killed processes may not have
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = errors.Join(r.group.Kill(), r.group.Remove(ctx))
	})
	return r
}

// there names what is left of the remains.
func (r remains) there(t *testing.T) (left []string) {
	t.Helper()
	if marked, err := statedir.Marked(r.dir.Marker()); err != nil || len(marked) > 0 {
		left = append(left, "process")
	}
	if groups, err := cgroup.Find(string(r.dir.ID())); err != nil || len(groups) > 0 {
		left = append(left, "cgroup")
	}
	ns, err := network.Open(r.netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, ports, err := ns.Identity(); err != nil || ports != r.ports {
		left = append(left, "ports "+ports)
	}
	if _, err := os.Lstat(r.dir.String()); err == nil {
		left = append(left, "folder")
	}
	return left
}

// TestUnreadableRecord: whatever has become of a record, what its sandbox left is found and
// taken back, and another sandbox's things of the same name are not touched.
func TestUnreadableRecord(t *testing.T) {
	testenv.NeedRoot(t)
	parent := fmt.Sprintf("/cloistertest-%d/", os.Getpid())
	t.Cleanup(func() {
		for _, name := range []string{parent + "other", strings.TrimSuffix(parent, "/")} {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if g, err := cgroup.At(name); err != nil || g.Remove(ctx) != nil {
				t.Errorf("cgroup %s stays: %v", name, err)
			}
		}
	})
	for name, text := range map[string][]byte{
		"too large": append([]byte(`{"version":1,"bundle":"`), bytes.Repeat([]byte("x"), 5<<20)...),
		"cut short": []byte(`{"version":1,"effects":[{"kind":"process`),
		"garbage":   {0, 0, 0, 0},
		"version":   []byte(`{"version":99}`),
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			id := fmt.Sprintf("lost%d", os.Getpid())
			r := leave(t, state, id, parent+map[bool]string{true: id, false: "x"}[name == "garbage"])
			other := leave(t, t.TempDir(), id+"x", parent+"x") // of another engine's state folder
			namesake, err := cgroup.At(parent + "other/" + id)
			if err != nil {
				t.Fatal(err)
			}
			if err := namesake.Create(cgroup.Limits{}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = namesake.Remove(context.Background()) })
			go func() { _ = r.process.Wait() }()
			if err := os.WriteFile(r.dir.Record(), text, 0o600); err != nil {
				t.Fatal(err)
			}
			host := Host{State: state, Root: t.TempDir()}
			found, err := host.Found(r.dir)
			var kinds []string
			for _, e := range found {
				kinds = append(kinds, string(e.Kind))
			}
			if got := strings.Join(kinds, " "); err != nil || got != "cgroup link process" {
				t.Errorf("Found = %q, %v", got, err)
			}
			if _, err := host.CleanupAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pids, err := cgroup.Find(id); err != nil || len(pids) != 1 {
				t.Errorf("another program's cgroup with the id as its name is gone: %v, %v", pids, err)
			}
			if err := namesake.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := r.there(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if left := other.there(t); len(left) != 4 {
				t.Errorf("of the other sandbox only %v is left", left)
			}
		})
	}
}

// TestEmptyCgroup: an empty cgroup that has the bare id as its name is the sandbox's in its
// namespace's parent, or when nobody could have chosen the id.
func TestEmptyCgroup(t *testing.T) {
	unique := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		id, leaf string
		want     bool
	}{
		{"c", "/default/c", true},
		{"c", "/other/c", false},
		{"c", "/other/cloister-c", true},
		{unique, "/other/" + unique, true},
	} {
		dir, err := statedir.New("/run/x", "default", tt.id)
		if err != nil {
			t.Fatal(err)
		}
		g, err := cgroup.At(tt.leaf)
		if err != nil {
			t.Fatal(err)
		}
		if got := ours(g, nil, dir); got != tt.want {
			t.Errorf("%s for the sandbox default/%s: ours %v, want %v", tt.leaf, tt.id, got, tt.want)
		}
	}
}
