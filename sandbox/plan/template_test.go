// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/vmm"
)

func TestClassIsTheNextQuarterOfAPowerOfTwo(t *testing.T) {
	for _, test := range []struct{ mib, want int }{
		{1, 1},
		{5, 5},
		{9, 10},
		{64, 64},
		{65, 80},
		{128, 128},
		{129, 160},
		{300, 320},
		{448, 448},
		{500, 512},
		{512, 512},
		{513, 640},
		{1000, 1024},
		{1500, 1536},
		{2000, 2048},
		{1<<20 - 1, 1 << 20},
		{1 << 20, 1 << 20},
	} {
		if got := ClassMiB(test.mib); got != test.want {
			t.Errorf("ClassMiB(%d) = %d, want %d", test.mib, got, test.want)
		}
	}
}

// A class holds what it is for and is a class itself. A template that was made for a class serves
// it, and no size asks for much more than it uses.
func TestClassHoldsItsSizes(t *testing.T) {
	classes := map[int]bool{}
	for mib := 1; mib <= 64<<10; mib++ {
		class := ClassMiB(mib)
		if class < mib || class > mib+mib/4 || ClassMiB(class) != class {
			t.Fatalf("ClassMiB(%d) = %d, whose class is %d: want at most a quarter more", mib, class, ClassMiB(class))
		}
		if mib >= 128 {
			classes[class] = true
		}
	}
	if want := 4*9 + 1; len(classes) != want {
		t.Errorf("%d classes from 128 MiB to 64 GiB, want %d", len(classes), want)
	}
}

func TestClassKeepsReserveAndCPUs(t *testing.T) {
	in := oci.Size{MemoryMiB: 300 + 96, CPUs: 3, ContainerMemory: 300 << 20}
	want := oci.Size{MemoryMiB: 320 + 96, CPUs: 3, ContainerMemory: 320 << 20}
	if got := Class(in); got != want {
		t.Errorf("Class(%+v) = %+v, want %+v", in, got, want)
	}
}

// The machine that becomes a template may use on the host what its class needs: it touches all of
// its memory before it is saved. A sandbox from that template keeps its own limit.
func TestSavedSandboxIsOfAClass(t *testing.T) {
	request := func(saved bool) SandboxRequest {
		return SandboxRequest{
			Namespace: "n", ID: "s", Workload: &oci.Workload{Resources: oci.Resources{MemoryLimit: 300 << 20}},
			Facts: Facts{Host: Host{Kernel: "/k", Small: true}, Sizing: oci.Sizing{}.OnHost(1)}, Saved: saved,
		}
	}
	own, err := NewSandbox(request(false))
	if err != nil {
		t.Fatal(err)
	}
	saved, err := NewSandbox(request(true))
	if err != nil {
		t.Fatal(err)
	}
	if own.Machine.MemoryMiB != 396 || saved.Machine.MemoryMiB != 416 {
		t.Errorf("machines of %d and %d MiB, want 396 and, saved, 416", own.Machine.MemoryMiB, saved.Machine.MemoryMiB)
	}
	if more := saved.Cgroup.Limits.MemoryBytes - own.Cgroup.Limits.MemoryBytes; more < 20<<20 {
		t.Errorf("the saved machine's cgroup may use %d bytes more, want at least 20 MiB", more)
	}
}

// TestCopyReason: a machine maps its template's memory if nobody else maps it, too, and if it has
// the size of the sandbox.
func TestCopyReason(t *testing.T) {
	for name, test := range map[string]struct {
		share  *vmm.Share
		ownMiB int
		want   string // in the reason; empty: none
	}{
		"neither share nor another size": {nil, 608, ""},
		"a share":                        {&vmm.Share{Tag: ShareTag}, 608, "file server"},
		"a smaller sandbox":              {nil, 600, "600 MiB"},
	} {
		got := CopyReason(vmm.Machine{MemoryMiB: 608, Share: test.share}, test.ownMiB)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: reason %q, want %q in it", name, got, test.want)
		}
	}
}

// TestNoTemplate: what the saved guest cannot become starts cold, each for a reason of its own.
func TestNoTemplate(t *testing.T) {
	ids := []oci.IDRange{{Host: 65536, Size: 1000}}
	mapped := Users(oci.IDMap{UIDs: ids, GIDs: ids})
	for name, test := range map[string]struct {
		m     vmm.Machine
		users guestapi.UserNamespace
		want  string // in the reason; empty: none
	}{
		"a microvm":        {vmm.Machine{Type: vmm.MicroVM}, guestapi.UserNamespace{}, ""},
		"a q35":            {vmm.Machine{Type: vmm.Q35}, guestapi.UserNamespace{}, "machine type is q35"},
		"huge pages":       {vmm.Machine{Type: vmm.MicroVM, HugePages: true}, guestapi.UserNamespace{}, "huge pages"},
		"a user namespace": {vmm.Machine{Type: vmm.MicroVM}, mapped, "user namespace"},
	} {
		got := NoTemplate(test.m, test.users)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: reason %q, want %q in it", name, got, test.want)
		}
	}
}
