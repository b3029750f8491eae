// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cloister/tests/host"
)

// program builds a command of the tests as a static one into a folder of the place, which is to be
// bound into containers.
func (b *bed) program(t *testing.T, name string) string {
	t.Helper()
	dir := b.folder(t, "programs", nil)
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o",
		filepath.Join(dir, name), "cloister/tests/integration/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return dir
}

// TestKernelLimitsAreAsOnAHost: what the kernel derives from memory is as large as on a host,
// and a user's processes are bounded by cgroups alone.
func TestKernelLimitsAreAsOnAHost(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.program(t, "limits")
	b.Start(t, "c", []string{
		"--user", "1000:1000", "--mount",
		"type=bind,src=" + dir + ",dst=/programs,options=rbind:ro", "--mount", "type=tmpfs,dst=/tmp,options=mode=1777",
	})
	// Each number is more than a kernel with as little memory as the guest's allows by itself.
	b.say(t, "watches", "12000 watches <nil>", "/programs/limits watches 12000")
	b.say(t, "threads", "3000 threads <nil>", "/programs/limits threads 3000")
	if !isCloister() {
		return // the rest is the host's to choose
	}
	b.say(t, "instances", "500 instances <nil>", "/programs/limits instances 500")
	b.say(t, "limits", "unlimited 4194304 4194304 1048576",
		"echo $(ulimit -u) $(cat /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max /proc/sys/vm/max_map_count)")
	r := b.withSpec(t, "own", func(spec, _ map[string]any) {
		spec["linux"].(map[string]any)["sysctl"] = map[string]string{"fs.inotify.max_user_watches": "2000"}
	}, "cat", "/proc/sys/fs/inotify/max_user_watches")
	if r.Stdout != "2000\n" || r.Code != 0 {
		t.Errorf("a workload's own limit = %+v, want 2000", r)
	}
}
