// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"cloister/oci"
	"cloister/vmm"
)

// TestOverhead: a pod's limit and the overhead that is declared for it add up to the limit of the
// sandbox's cgroup.
func TestOverhead(t *testing.T) {
	for _, accel := range []vmm.Accel{vmm.AccelKVM, vmm.AccelTCG} {
		for _, podMiB := range []int{16, 64, 512, 4096} {
			got, err := OverheadMiB(oci.Sizing{}, accel, "", false, podMiB)
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewSandbox(SandboxRequest{
				Namespace: "default", ID: "x", Workload: &oci.Workload{Resources: oci.Resources{MemoryLimit: int64(podMiB) << 20}},
				Facts: Facts{Host: Host{Accel: accel, Kernel: "/k", Initrd: "/i", Small: true}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if limit := s.Cgroup.Limits.MemoryBytes; int64(podMiB+got)<<20 != limit {
				t.Errorf("%s, a pod of %d MiB: overhead %d, but the sandbox's cgroup gets %d MiB", accel, podMiB, got, limit>>20)
			}
		}
	}
	kvm, _ := OverheadMiB(oci.Sizing{}, vmm.AccelKVM, "", false, 64)
	tcg, _ := OverheadMiB(oci.Sizing{}, vmm.AccelTCG, "", false, 64)
	if tcg <= kvm {
		t.Errorf("%d MiB under emulation, %d with KVM", tcg, kvm)
	}
	t.Logf("a pod of 64 MiB: %d MiB with KVM, %d under emulation", kvm, tcg)
}

func TestTenant(t *testing.T) {
	for namespace, want := range map[string]string{"": "k8s.io", "red": "k8s.io/red"} {
		r := SandboxRequest{Namespace: "k8s.io", ID: "x", Workload: &oci.Workload{PodNamespace: namespace}}
		if got := newIdentity(r, true).Tenant; got != want {
			t.Errorf("tenant of a pod in %q = %q, want %q", namespace, got, want)
		}
	}
}
