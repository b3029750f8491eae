// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/oci"
	"cloister/sandbox/config"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm"
)

// TestStepsAreInOrder: the record is there before the first effect, and nothing of the guest runs
// before labels and jail were read back.
func TestStepsAreInOrder(t *testing.T) {
	var names []string
	for _, s := range (&Sandbox{}).steps(&starting{}) {
		if s.run == nil || slices.Contains(names, s.name) {
			t.Errorf("step %q has no function, or a name twice", s.name)
		}
		names = append(names, s.name)
	}
	before := func(first, second string) {
		t.Helper()
		i, j := slices.Index(names, first), slices.Index(names, second)
		if i < 0 || j < 0 || i >= j {
			t.Errorf("steps %v: want %q before %q", names, first, second)
		}
	}
	before("plan", "promise")
	for _, effect := range []string{"label", "content", "prepare", "files", "qemu"} {
		before("promise", effect)
	}
	before("label", "content")
	before("qemu", "load")
	before("load", "verify")
	before("verify", "kernel")
	before("kernel", "agent")
}

// TestBuilderPlansTheMachineOfWhoAsked: a template is for the machine of the sandbox that lacked
// one, also where an annotation had made that another one than the host's.
func TestBuilderPlansTheMachineOfWhoAsked(t *testing.T) {
	size := template.Size{LimitMiB: 64, CPUs: 2, Machine: string(vmm.MicroVM)}
	w := newBuilder(config.Config{}, TemplateRequest{Size: size}).request.Workload
	if w.Settings.Machine != size.Machine || w.Settings.CPUs != size.CPUs || w.Resources.MemoryLimit != 64<<20 {
		t.Errorf("the builder's workload = %+v, %+v, want %+v", w.Settings, w.Resources, size)
	}
}

// TestBuilderTakesWhatIsWanted: the class of the largest sandbox is above sizing.max_memory_mib. A
// builder that was asked for the class would refuse it after each cold start.
func TestBuilderTakesWhatIsWanted(t *testing.T) {
	const most = 600 // of the class 640
	request := plan.SandboxRequest{
		Namespace: "n", ID: "s", Workload: &oci.Workload{Resources: oci.Resources{MemoryLimit: most << 20}},
		Facts: plan.Facts{Host: plan.Host{Kernel: "/k", Small: true}, Sizing: oci.Sizing{MaxMemoryMiB: most}.OnHost(1)},
	}
	own, err := plan.NewSandbox(request)
	if err != nil {
		t.Fatal(err)
	}
	want := template.Wanted(own.Size.ContainerMemory, own.Size.CPUs, string(own.Machine.Type))
	request.Saved = true
	request.Workload = newBuilder(config.Config{}, TemplateRequest{Size: want}).request.Workload
	saved, err := plan.NewSandbox(request)
	if err != nil {
		t.Fatalf("the builder's plan: %v", err)
	}
	if have, want := saved.Machine.MemoryMiB, plan.Class(own.Size).MemoryMiB; have != want {
		t.Errorf("the template has %d MiB, a sandbox wants one of %d", have, want)
	}
}

// TestPlanThatFailsHasNoEffect: an error of the plan names the sandbox and the step, and the
// folders of the host hold nothing of it.
func TestPlanThatFailsHasNoEffect(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Config{
		State: filepath.Join(dir, "state"), Root: filepath.Join(dir, "root"), Guest: config.Guest{Image: filepath.Join(dir, "none")},
	}
	tests := []struct {
		name, id, want string
	}{
		{"name", "../up", "plan"},
		{"guest image", "c", filepath.Join(dir, "none")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Start(t.Context(), cfg, Request{ID: tt.id, Namespace: "n", Bundle: dir, Workload: &oci.Workload{}})
			if err == nil || s != nil {
				t.Fatalf("Start = %v, %v, want an error", s, err)
			}
			if !strings.Contains(err.Error(), "sandbox "+tt.id+": plan: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want the sandbox, the step and %q", err, tt.want)
			}
			if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.Name() == tt.id {
					t.Errorf("left behind: %s", path)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
}
