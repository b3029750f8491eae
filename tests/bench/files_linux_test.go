// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// rootFiles are what a program does with 1000 small files of its root file system, in order.
var rootFiles = []struct{ name, script string }{
	{"make", "mkdir /d; i=0; while [ $i -lt 1000 ]; do echo small >/d/$i; i=$((i+1)); done"},
	{"read", "tar cf - /d | wc -c"},
	{"stat", "ls -l /d | wc -l"},
	{"remove", "rm -r /d"},
}

// root is a container with one kind of root file system.
type root struct {
	*bed.Bed
	name    string
	options []string
	stats   []string // of QEMU's process and the file server's; none for runc
	samples map[string]Samples
}

// TestBenchFiles compares small files on a root file system that virtiofsd serves with those on a
// disk and with runc's. The three take turns.
func TestBenchFiles(t *testing.T) {
	runs := needRuns(t)
	b := bed.New(t, host.Options{Config: blockfile(t)})
	runc := *b
	runc.Runtime = bed.Runc
	roots := []*root{
		{Bed: b, name: "virtiofs"},
		{Bed: b, name: "disk", options: []string{"--snapshotter", "blockfile"}},
		{Bed: &runc, name: "runc"},
	}
	for _, r := range roots {
		r.samples = map[string]Samples{}
		r.Start(t, r.name, r.options)
		if r.Runtime == bed.Runc {
			continue
		}
		for _, program := range []string{"qemu-system", "virtiofsd"} {
			r.stats = append(r.stats, b.Place.Path(fmt.Sprintf("/proc/%d/stat", b.Marked(t, r.name, program))))
		}
	}
	for i := range max(3, runs/2) + 1 {
		for _, r := range roots {
			r.measure(t, i)
		}
	}
	out := map[string]map[string]Spread{}
	for _, r := range roots {
		out[r.name] = spreads(r.samples)
		for _, f := range rootFiles {
			t.Logf("%-8s %-6s ms %s, CPU %s", r.name, f.name, out[r.name][f.name], out[r.name][f.name+" cpu"])
		}
	}
	merge(t, map[string]any{"root_files_ms": out})
}

// blockfile is a configuration of containerd with a snapshotter whose root file systems are disks.
func blockfile(t *testing.T) string {
	t.Helper()
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	mkfs := testenv.NeedTool(t, "mkfs.ext4")
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-O", "^has_journal", "-E", "root_owner=0:0", scratch, "64M").
		CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mkfs, err, out)
	}
	return fmt.Sprintf(`
[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = %q
fs_type = "ext4"
mount_options = []
recreate_scratch = true
`, scratch)
}

// measure does each thing once; the first round warms caches.
func (r *root) measure(t *testing.T, round int) {
	t.Helper()
	for _, f := range rootFiles {
		before := r.cpu(t)
		wall := took(t, r.Bed, "task", "exec", "--exec-id", fmt.Sprint(f.name, round), r.name, "sh", "-c", f.script)
		if round == 0 {
			continue
		}
		add(r.samples, f.name, wall)
		if len(r.stats) > 0 {
			add(r.samples, f.name+" cpu", r.cpu(t)-before)
		}
	}
}

// cpu is the CPU time of the machine and its file server so far.
func (r *root) cpu(t *testing.T) time.Duration {
	t.Helper()
	var sum float64
	for _, stat := range r.stats {
		sum += processorTime(t, stat)
	}
	return time.Duration(sum * float64(time.Second))
}
