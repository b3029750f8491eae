// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/lab/wire"
	"cloister/tests/testenv"
)

// labTime bounds the whole lab, with a root to be made.
const labTime = 12 * time.Minute

// boot builds what the machine needs and starts it, enforcing from the first load of its policy.
func boot(t *testing.T) *machine {
	t.Helper()
	testenv.NeedRoot(t)
	qemu := testenv.NeedQEMU(t)
	build, guest, busybox := testenv.NeedShim(t), testenv.NeedGuest(t), testenv.NeedBusybox(t)
	for _, name := range []string{"debootstrap", "setfiles", "mke2fs", "checkmodule", "semodule_package", "semodule", "go"} {
		testenv.NeedTool(t, name)
	}
	// The test's own context ends before its clean-up, which is to stop the machine in good order.
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	t.Cleanup(cancel)
	begin := time.Now()
	stage := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
	work := t.TempDir()
	made, err := makeRoot(ctx, testenv.Cache(), labRecipe())
	if err != nil {
		t.Fatal(err)
	}
	stage("root")
	compiled, err := makePolicies(ctx, testenv.Cache(), made)
	if err != nil {
		t.Fatal(err)
	}
	stage("policy")
	files, err := programs(ctx, work)
	if err != nil {
		t.Fatal(err)
	}
	more, err := engineFiles(ctx, work, build, guest, busybox)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := makeDisk(ctx, work, compiled, append(files, more...))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := makeInitrd(work, made)
	if err != nil {
		t.Fatal(err)
	}
	stage("disk")
	m, err := start(ctx, config{
		qemu: qemu, kernel: made.kernel(), initrd: initrd, root: made.image(), disk: disk,
		memoryMiB: 4096, console: filepath.Join(work, "console"), enforcing: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Errorf("stop the lab: %v", err)
		}
	})
	answer, err := m.ask(wire.Request{Read: &wire.Read{Path: "/sys/fs/selinux/enforce"}}, 3*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(answer.Out) != "1" {
		t.Fatalf("the lab does not enforce: %q", answer.Out)
	}
	stage("boot")
	return m
}

// TestLab is one machine for all: the built shim under a real containerd first, then what a broken-out process tries.
func TestLab(t *testing.T) {
	list := attempts()
	if err := check(list); err != nil {
		t.Fatal(err)
	}
	m := boot(t)
	t.Run("shim", func(t *testing.T) { shim(t, m) })
	t.Run("matrix", func(t *testing.T) { matrix(t, m, list) })
}

// matrix runs every attempt with its controls.
func matrix(t *testing.T, m *machine, list []attempt) {
	t.Helper()
	begin := time.Now()
	w, err := makeWorld(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("world: %.1f s", time.Since(begin).Seconds())
	begin = time.Now()
	results := make([]result, 0, len(list))
	for _, a := range list {
		r, err := w.attack(a)
		if err != nil {
			t.Fatalf("%s: %v", a.key(), err)
		}
		results = append(results, r)
	}
	t.Logf("attacks: %.1f s", time.Since(begin).Seconds())
	begin = time.Now()
	if err := w.permissiveWorld(); err != nil {
		t.Fatal(err)
	}
	for i := range results {
		if err := w.withoutPolicy(&results[i]); err != nil {
			t.Fatalf("%s: %v", results[i].key(), err)
		}
	}
	t.Logf("permissive: %.1f s", time.Since(begin).Seconds())
	report(t, results)
}

// shim runs two sandboxes of the built shim under a real containerd: each process has the label it should have, the pairs
// differ, nothing was denied, and nothing is left.
func shim(t *testing.T, m *machine) {
	t.Helper()
	begin := time.Now()
	m.seen = nil
	defer func() {
		for _, d := range denials(m.seen) {
			ours := strings.HasPrefix(d.Source.Type, "cloister_") || strings.HasPrefix(d.Target.Type, "cloister_")
			if ours && !silent(d) {
				t.Errorf("denied: %s", d.Text)
			}
		}
	}()
	e, err := startEngine(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("containerd: %.1f s", time.Since(begin).Seconds())
	ids := []string{"first", "second"}
	for _, id := range ids {
		begin = time.Now()
		if err := e.run(id); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f s", id, time.Since(begin).Seconds())
	}
	list, err := e.processes("cloister_")
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string][]string{}
	for _, r := range list {
		t.Logf("%6d %-45s %s", r.pid, r.label, r.command)
		label, err := labels.Parse(r.label)
		if err != nil {
			t.Error(err)
			continue
		}
		levels[label.Type] = append(levels[label.Type], label.Range.String())
	}
	for _, kind := range []string{policy.QEMUType, policy.VirtiofsdType} {
		slices.Sort(levels[kind])
		if len(slices.Compact(levels[kind])) != len(ids) {
			t.Errorf("levels of %s: %q, want %d different ones", kind, levels[kind], len(ids))
		}
	}
	if out, err := e.ctr("task", "exec", "--exec-id", "x", ids[0], "uname", "-r"); err != nil {
		t.Error(err)
	} else {
		t.Logf("the guest's kernel: %s", out)
	}
	for _, id := range ids {
		if err := e.remove(id); err != nil {
			t.Error(err)
		}
	}
	if list, err = e.processes("cloister_"); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// report prints the table, and fails for whatever is not as it should be.
func report(t *testing.T, results []result) {
	t.Helper()
	var table strings.Builder
	for _, r := range results {
		state := "denied"
		if !r.denied {
			state = "NOT PROVED"
			t.Errorf("%s: %s", r.key(), r.trouble)
		}
		for _, note := range r.notes {
			t.Errorf("%s: %s", r.key(), note)
		}
		fmt.Fprintf(&table, "%-10s %-3s %-10s %-60s %s\n", r.from, r.tag, state, r.name, r.want)
	}
	t.Logf("\n%s", table.String())
	fmt.Println(closing(results))
}
