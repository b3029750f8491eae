// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/host"
)

// TestStatusWithHostPIDs: when its first process ends, a plain container in the host's pid
// namespace is killed by its cgroup. The engine has the status of the process all the same.
func TestStatusWithHostPIDs(t *testing.T) {
	b := newBed(t)
	b.WriteClass(t, "process")
	bundle := b.bundle(t, []string{"sh", "-c", "sleep 1000 & echo said; exit 7"}, func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.PIDNamespace
		})
	})
	if r := b.run(t, b.program, "run", "--bundle", bundle, "one"); r != (result{"said\n", "", 7}) {
		t.Errorf("run = %+v, want the output and 7", r)
	}
	for _, line := range b.Processes(t) {
		if line == "sleep 1000" {
			t.Error("a process of the container is left")
		}
	}
}

// TestStatusBeforeDelete: a plain container is deleted by force when it has just ended. The engine
// has the status of its process, and not that of one that was killed.
func TestStatusBeforeDelete(t *testing.T) {
	b := newBed(t)
	b.WriteClass(t, "process")
	m := b.conmon(t, b.bundle(t, []string{"sh", "-c", "exit 7"}, nil))
	_, pid := b.state(t)
	b.must(t, "kill", "-STOP", strconv.Itoa(pid)) // it has the status to tell
	b.oci(t, "start", "one")
	if late := host.Await(host.Patience, func() string {
		if r := b.run(t, b.program, "kill", "one", "WINCH"); r.code == 0 {
			return "the container has not ended"
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := b.Command(ctx, b.program, "delete", "--force", "one")
	cmd.Env = b.env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	group := "/" + b.parent + "/one\n"
	if late := host.Await(host.Patience, func() string {
		if text, _ := os.ReadFile(b.Path("/proc/" + strconv.Itoa(pid) + "/cgroup")); strings.Contains(string(text), group) {
			return "delete has not killed the container's processes"
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
	b.must(t, "kill", "-CONT", strconv.Itoa(pid))
	if got := m.status(t); got != "7" {
		t.Errorf("conmon's exit status = %q, want 7", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("delete --force: %v", err)
	}
}
