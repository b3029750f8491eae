// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os"
	"testing"

	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/vmm"
)

// TestOverhead: what is declared for a pod and the pod's limit are together what the sandbox's
// own cgroup is limited to.
func TestOverhead(t *testing.T) {
	for _, accel := range []vmm.Accel{vmm.AccelKVM, vmm.AccelTCG} {
		for _, podMiB := range []int{16, 64, 512, 4096} {
			got, err := OverheadMiB(Config{}, accel, podMiB)
			if err != nil {
				t.Fatal(err)
			}
			w := &oci.Workload{Resources: oci.Resources{MemoryLimit: int64(podMiB) << 20}}
			size, err := w.Size(oci.Sizing{})
			if err != nil {
				t.Fatal(err)
			}
			m, err := plan.Machine("x", plan.Host{Accel: accel, Kernel: "/k", Initrd: "/i", Small: true}, "", size, nil)
			if err != nil {
				t.Fatal(err)
			}
			if limit := hostLimits(w.HostResources(), m).MemoryBytes; int64(podMiB+got)<<20 != limit {
				t.Errorf("%s, a pod of %d MiB: overhead %d, but the sandbox's cgroup gets %d MiB", accel, podMiB, got, limit>>20)
			}
		}
	}
	kvm, _ := OverheadMiB(Config{}, vmm.AccelKVM, 64)
	tcg, _ := OverheadMiB(Config{}, vmm.AccelTCG, 64)
	if tcg <= kvm {
		t.Errorf("%d MiB under emulation, %d with KVM", tcg, kvm)
	}
	t.Logf("a pod of 64 MiB: %d MiB with KVM, %d under emulation", kvm, tcg)
}

// TestResolve: a program without its x bit is not called missing.
func TestResolve(t *testing.T) {
	name := t.TempDir() + "/qemu"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(name, "x"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("resolve of a program that cannot be executed: %v", err)
	}
	if _, err := resolve(name+"none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("resolve of nothing: %v", err)
	}
}
