// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/tests/testenv"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeFiles is a cgroup v2 file system in a plain folder: a new group has the
// files of the controllers that its parent passes on.
type fakeFiles struct {
	realFiles
	busy   bool   // the root has processes, so that nothing can be switched on
	denied string // a controller that SELinux does not let be switched on
	writes []string
	root   string
}

func v2Files(controllers string) []string {
	out := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.kill"}
	for c := range strings.FieldsSeq(controllers) {
		out = append(out, map[string][]string{
			"cpu": {"cpu.weight", "cpu.max"}, "cpuset": {"cpuset.cpus", "cpuset.mems"},
			"io": {"io.max", "io.weight"}, "memory": {"memory.max", "memory.swap.max", "memory.events"}, "pids": {"pids.max"},
		}[c]...)
	}
	return out
}

func (f *fakeFiles) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	on, err := f.read(filepath.Join(filepath.Dir(path), "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, name := range v2Files(on) {
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeFiles) write(path, value string) error {
	if strings.HasSuffix(path, "subtree_control") {
		if f.busy {
			return unix.EBUSY
		}
		if value[1:] == f.denied {
			return unix.EACCES
		}
		now, err := f.read(path)
		if err != nil {
			return err
		}
		return f.realFiles.write(path, strings.TrimSpace(now+" "+value[1:]))
	}
	err := f.realFiles.write(path, value)
	if err == nil {
		rel, _ := filepath.Rel(f.root, path)
		f.writes = append(f.writes, rel+" = "+value)
	}
	return err
}

func (f *fakeFiles) rmdir(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if text, _ := f.read(filepath.Join(path, "cgroup.procs")); text != "" {
		return unix.EBUSY
	}
	return os.RemoveAll(path)
}

func fakeV2(t *testing.T, controllers string) (*Group, *fakeFiles) {
	t.Helper()
	f := &fakeFiles{root: t.TempDir()}
	if err := os.WriteFile(filepath.Join(f.root, "cgroup.subtree_control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return &Group{
		leaf: "/kube/pod/cloister-s1", files: f,
		hosts: []hierarchy{{mount: f.root, unified: true, controllers: strings.Fields(controllers)}},
	}, f
}

func TestV2(t *testing.T) {
	g, f := fakeV2(t, "cpuset cpu io memory hugetlb pids")
	l := Limits{MemoryBytes: 1 << 30, CPUShares: 100, BlockIO: BlockIO{Weight: 50}}
	if err := g.Create(l); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(42); err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]bool{42: true, 4: false} {
		if got, err := g.Holds(pid); got != want || err != nil {
			t.Errorf("Holds(%d) = %t, %v, want %t", pid, got, err, want)
		}
	}
	leaf := "kube/pod/cloister-s1/"
	want := []string{leaf + "cpu.weight = 4", leaf + "memory.max = 1073741824", leaf + "io.weight = default 50", leaf + "cgroup.procs = 42"}
	if d := cmp.Diff(want, f.writes); d != "" {
		t.Errorf("writes (-want +got):\n%s", d)
	}
	if on, _ := f.read(filepath.Join(f.root, "kube/pod/cgroup.subtree_control")); on != "cpu cpuset io memory pids" {
		t.Errorf("the parent passes on %q", on)
	}
	events := filepath.Join(f.root, leaf, "memory.events")
	if err := os.WriteFile(events, []byte("low 0\noom 4\noom_kill 3\noom_group_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 3 || err != nil {
		t.Errorf("OOMKills = %d, %v, want 3", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "42") {
		t.Errorf("Remove with a process in it: %v", err)
	}
	if err := f.realFiles.write(filepath.Join(f.root, leaf, "cgroup.procs"), ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(f.root, leaf, "cgroup.procs"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Remove(t.Context()); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
}

// TestV2Missing: a limit that cannot be set is an error, and nothing is left.
func TestJoin(t *testing.T) {
	g, f := fakeV2(t, "memory")
	if err := join(f, g.hosts, g.leaf, 7); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("join of a group that is not there = %v, want ErrNotFound", err)
	}
	if err := g.Create(Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := join(f, g.hosts, g.leaf, 7); err != nil {
		t.Error(err)
	}
	if last := f.writes[len(f.writes)-1]; !strings.HasSuffix(last, "cgroup.procs = 7") {
		t.Errorf("the last write is %q, want 7 to cgroup.procs", last)
	}
}

// TestV2Denied: SELinux denies a controller because of a process in another group. The sandbox
// starts without it, and a limit that needs it is refused.
func TestV2Denied(t *testing.T) {
	g, f := fakeV2(t, "cpuset memory")
	f.denied = "cpuset"
	if err := g.Create(Limits{MemoryBytes: 1 << 30}); err != nil {
		t.Errorf("Create without a cpuset = %v", err)
	}
	if err := g.Set(Limits{CPUs: "0"}); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), "cpuset.cpus") {
		t.Errorf("Set of a cpuset = %v, want one that names cpuset.cpus", err)
	}
}

func TestV2Missing(t *testing.T) {
	g, f := fakeV2(t, "cpu")
	err := g.Create(Limits{MemoryBytes: 1 << 30})
	if !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), "memory.max") {
		t.Errorf("Create = %v, want one that names memory.max", err)
	}
	if _, err := os.Stat(filepath.Join(f.root, g.leaf)); err == nil {
		t.Error("the leaf was left behind")
	}
	g, f = fakeV2(t, "cpu memory")
	f.busy = true
	if err := g.Create(Limits{}); err != nil {
		t.Errorf("Create without limits below a busy parent: %v", err)
	}
	if err := g.Set(Limits{MemoryBytes: 1}); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("Set below a busy parent: %v", err)
	}
}

func TestParseMounts(t *testing.T) {
	hybrid := `30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
35 30 0:31 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
36 30 0:31 / /mnt/a\040b rw - cgroup cgroup rw,memory
37 30 0:31 /docker/x /mnt/c rw - cgroup cgroup rw,blkio
`
	got, err := parseMounts([]byte(hybrid), used)
	want := []hierarchy{
		{mount: "/sys/fs/cgroup/unified", unified: true},
		{mount: "/sys/fs/cgroup/systemd", controllers: []string{"name=systemd"}},
		{mount: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{mount: "/sys/fs/cgroup/devices", controllers: []string{"devices"}},
		{mount: "/sys/fs/cgroup/memory", controllers: []string{"memory"}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(hierarchy{})); d != "" || err != nil {
		t.Errorf("parseMounts: %v (-want +got):\n%s", err, d)
	}
	if _, err := parseMounts([]byte("30 25 0:26 / / rw - ext4 /dev/vda rw\n"), used); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("parseMounts without cgroups: %v", err)
	}
}

func TestAt(t *testing.T) {
	for _, bad := range []string{"", "/", "a", "/a/../b", "/a/"} {
		if _, err := At(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("At(%q): %v", bad, err)
		}
	}
}

// TestHost goes through a leaf's life on this machine's own cgroups.
func TestHost(t *testing.T) {
	testenv.NeedRoot(t)
	leaf, err := Leaf("/cloister-test/x", strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	g, err := At(leaf)
	if err != nil {
		t.Fatal(err)
	}
	l := Limits{MemoryBytes: 64 << 20, CPUShares: 512}
	if err := g.Create(l); err != nil {
		testenv.Need(t, testenv.Cgroups, err.Error())
	}
	t.Cleanup(func() {
		for _, h := range g.hosts {
			_ = unix.Rmdir(filepath.Join(h.mount, "cloister-test"))
		}
	})
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("Pids = %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	if h, ok := g.v1("memory"); ok {
		for _, limit := range []int64{128 << 20, 32 << 20} { // up and down again
			swap := int64(1 << 20)
			if err := g.Set(Limits{MemoryBytes: limit, SwapBytes: &swap}); err != nil {
				t.Fatal(err)
			}
			if got, _ := g.files.read(filepath.Join(h.mount, leaf, "memory.limit_in_bytes")); got != itoa(limit) {
				t.Errorf("limit is %s, want %d", got, limit)
			}
		}
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
	again, err := At(g.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for range 2 {
		if err := again.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range g.hosts {
		if _, err := os.Stat(filepath.Join(h.mount, leaf)); err == nil {
			t.Errorf("%s is left below %s", leaf, h.mount)
		}
	}
	if err := again.Kill(); err != nil {
		t.Errorf("Kill of a leaf that is gone: %v", err)
	}
}
