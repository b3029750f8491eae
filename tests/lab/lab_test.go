// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/lab/wire"
	"cloister/tests/testenv"
)

// labTime bounds the whole lab, with a root to be made.
const labTime = 25 * time.Minute

// late leaves out what takes minutes and is not about labels.
const late = 7 * time.Minute

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

// TestLab is one machine for all: two sandboxes of the built shim under a real containerd, then what a broken-out process
// tries on them and on what was made by hand, then the sandboxes' end.
func TestLab(t *testing.T) {
	list := append(attempts(), onRunning()...)
	if err := check(list); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m := boot(t)
	var e *engine
	if !t.Run("start", func(t *testing.T) { e = startShim(t, m) }) {
		return
	}
	t.Run("labels", func(t *testing.T) { room(t, m) })
	t.Run("container", func(t *testing.T) { container(t, m, e) })
	t.Run("matrix", func(t *testing.T) { matrix(t, m, e, list) })
	t.Run("end", func(t *testing.T) { endShim(t, m, e) })
	t.Run("faults", func(t *testing.T) { faults(t, m, e) })
	t.Run("install", func(t *testing.T) {
		if took := time.Since(begin); took > late {
			t.Skipf("takes minutes, and %.0f s are gone", took.Seconds())
		}
		install(t, m)
	})
}

// matrix runs every attempt with its controls.
func matrix(t *testing.T, m *machine, e *engine, list []attempt) {
	t.Helper()
	m.seen = nil
	begin := time.Now()
	stage := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
	w, err := makeWorld(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sandboxes(e); err != nil {
		t.Fatal(err)
	}
	stage("world")
	results := make([]result, 0, len(list))
	for _, a := range list {
		r, err := w.attack(a)
		if err != nil {
			t.Fatalf("%s: %v", a.key(), err)
		}
		results = append(results, r)
	}
	stage("attacks")
	var open []string
	for _, a := range unmediated() {
		answer, err := w.try(a, a.try, a.attacker(), a.target())
		if err != nil {
			t.Fatalf("%s: %v", a.key(), err)
		}
		open = append(open, fmt.Sprintf("%-10s %-40s %s", a.from, a.name, strings.TrimSpace(answer.Out)))
	}
	unexpected(t, m)
	if err := w.load("permissive"); err != nil {
		t.Fatal(err)
	}
	for i := range results {
		if err := w.withoutPolicy(&results[i]); err != nil {
			t.Fatalf("%s: %v", results[i].key(), err)
		}
	}
	stage("permissive")
	refusedWhilePermissive(t, e)
	if err := w.load("policy"); err != nil {
		t.Fatal(err)
	}
	m.seen = nil
	report(t, results)
	t.Logf("not mediated, and not counted:\n%s", strings.Join(open, "\n"))
}

// refusedWhilePermissive starts a sandbox while its domains are permissive: it has to be refused, with the reason.
func refusedWhilePermissive(t *testing.T, e *engine) {
	t.Helper()
	err := e.run("third")
	if err == nil || !strings.Contains(err.Error(), "permissive") {
		t.Errorf("a sandbox in a permissive domain: %v, want a refusal that says so", err)
	}
	_, _ = e.ctr("container", "delete", "third")
}

// unexpected fails for every denial that is nobody's attempt: of the shim, the engine and the sandboxes' own processes.
func unexpected(t *testing.T, m *machine) {
	t.Helper()
	for _, d := range denials(m.seen) {
		ours := strings.HasPrefix(d.Source.Type, "cloister_") || strings.HasPrefix(d.Target.Type, "cloister_")
		probe := strings.HasPrefix(d.Command, "probe-") || strings.HasPrefix(d.Command, "enter-") && d.Source.Type != policy.ShimType
		if ours && !probe && !silent(d) {
			t.Errorf("denied: %s", d.Text)
		}
	}
}

// startShim runs two sandboxes of the built shim under a real containerd: each process has the label it should have, the
// pairs differ, and nothing was denied.
func startShim(t *testing.T, m *machine) *engine {
	t.Helper()
	begin := time.Now()
	m.seen = nil
	defer unexpected(t, m)
	e, err := startEngine(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("containerd: %.1f s", time.Since(begin).Seconds())
	for _, id := range ids() {
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
		if len(slices.Compact(levels[kind])) != len(ids()) {
			t.Errorf("levels of %s: %q, want %d different ones", kind, levels[kind], len(ids()))
		}
	}
	for _, args := range [][]string{{"policy", "test"}, {"labels"}, {"check"}} {
		answer, err := m.run(wire.Run{Argv: append([]string{"/lab/bin/cloister"}, args...), Env: labEnv()})
		if err != nil || (args[0] == "policy" && answer.Exit != 0) {
			t.Errorf("cloister %q: %v, exit %d", args, err, answer.Exit)
		}
		t.Logf("cloister %s: exit %d\n%s", strings.Join(args, " "), answer.Exit, answer.Out)
	}
	return e
}

// room runs the labels room's own tests for a kernel that enforces, in the shim's domain.
func room(t *testing.T, m *machine) {
	t.Helper()
	answer, err := m.run(wire.Run{
		Argv: []string{"/lab/bin/labels.test", "-test.run=Enforcing", "-test.v"}, Env: append(labEnv(), "REQUIRE=enforcing,lab,qemu,virtiofsd"), Seconds: 200,
	})
	if err != nil || answer.Exit != 0 || !strings.Contains(answer.Out, "--- PASS: TestEnforcing") {
		t.Errorf("tests of labels: %v, exit %d:\n%s\n%s", err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
		return
	}
	t.Log(answer.Out)
	m.seen = nil // its refusals are denials too
}

// container runs a plain container of runc's under the container types, and has it attack a sandbox that runs.
func container(t *testing.T, m *machine, e *engine) {
	t.Helper()
	m.seen = nil
	answer, err := plain(m, "own", levelA, "/bin/busybox", "cat", "/proc/self/attr/current")
	if err != nil || answer.Exit != 0 || !strings.Contains(answer.Out, process(policy.ContainerType, levelA)) {
		t.Fatalf("a plain container: %v, exit %d: %s: %s", err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
	}
	unexpected(t, m)
	list, err := e.processes(policy.QEMUType)
	if err != nil || len(list) == 0 {
		t.Fatalf("no machine runs: %v", err)
	}
	for _, test := range []struct {
		name string
		argv []string
		want want
	}{
		{"map", []string{"open", "/proc/" + strconv.Itoa(list[0].pid) + "/maps"}, want{policy.ContainerType, policy.QEMUType, "dir", "search"}},
		{"signal", []string{"kill", strconv.Itoa(list[0].pid), "18"}, want{policy.ContainerType, policy.QEMUType, "process", "signal"}},
	} {
		answer, err := plain(m, test.name, levelA, append([]string{"/bin/probe-container"}, test.argv...)...)
		if err != nil || answer.Exit != 1 || !test.want.in(denials(answer.Audit), levelA, "") {
			t.Errorf("%s: %v, exit %d: %s: %s, want %s", test.name, err, answer.Exit, answer.Out, brief(denials(answer.Audit)), test.want)
		}
	}
}

// endShim uses and ends the sandboxes: nothing may be left.
func endShim(t *testing.T, m *machine, e *engine) {
	t.Helper()
	defer unexpected(t, m)
	for _, id := range ids() {
		out, err := e.ctr("task", "exec", "--exec-id", "x", id, "uname", "-r")
		if err != nil {
			t.Error(err)
		}
		t.Logf("the guest's kernel: %s", strings.TrimSpace(out))
		if err := e.remove(id); err != nil {
			t.Error(err)
		}
	}
	list, err := e.processes(policy.QEMUType)
	if err != nil || slices.ContainsFunc(list, isQEMU) {
		t.Errorf("left: %v, %v", list, err)
	}
}

// faults are hosts on which no guest may start: the error says why, and nothing is left.
func faults(t *testing.T, m *machine, e *engine) {
	t.Helper()
	no, yes := false, true
	virtiofsd := func(kind string) wire.Request {
		return wire.Request{Write: &wire.Write{Path: "/usr/lib/qemu/virtiofsd", Label: true, Context: object(kind, "s0")}}
	}
	for _, test := range []struct {
		name        string
		spoil, mend wire.Request
		says        string
	}{
		{
			"permissive",
			wire.Request{Policy: &wire.Policy{Enforce: &no}},
			wire.Request{Policy: &wire.Policy{Enforce: &yes}},
			"SELinux is permissive",
		},
		{"entrance", virtiofsd("lib_t"), virtiofsd(policy.VirtiofsdExecType), "virtiofsd"},
		{
			"without",
			wire.Request{Policy: &wire.Policy{Load: "/lab/policy/base"}},
			wire.Request{Policy: &wire.Policy{Load: "/lab/policy/policy"}},
			"cloister policy install",
		},
	} {
		if _, err := m.ask(test.spoil, 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		id := "fault-" + test.name
		err := e.run(id)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want a refusal that says %q", test.name, err, test.says)
		}
		if _, err := m.ask(test.mend, 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			_ = e.remove(id)
		}
		t.Logf("%s: %.300v", test.name, err)
		_, _ = e.ctr("container", "delete", id)
		left, err := m.run(wire.Run{Argv: []string{"/bin/busybox", "find", "/run/cloister", "-name", id}})
		if err != nil || strings.TrimSpace(left.Out) != "" {
			t.Errorf("%s: left: %v %s", test.name, err, left.Out)
		}
		if list, err := e.processes("qemu"); err != nil || slices.ContainsFunc(list, isQEMU) {
			t.Errorf("%s: left: %v, %v", test.name, list, err)
		}
	}
}

// install has the command line build, load and check the module itself, on the host without it.
func install(t *testing.T, m *machine) {
	t.Helper()
	m.seen = nil
	if _, err := m.ask(wire.Request{Policy: &wire.Policy{Load: "/lab/policy/base"}}, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"install"}, {"status"}, {"test"}} {
		begin := time.Now()
		answer, err := m.run(wire.Run{Argv: append([]string{"/lab/bin/cloister", "policy"}, args...), Env: labEnv(), Seconds: 400})
		if err != nil || answer.Exit != 0 {
			t.Errorf("cloister policy %s: %v, exit %d: %s; %s", args[0], err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
		}
		t.Logf("cloister policy %s: %.1f s, exit %d\n%s", args[0], time.Since(begin).Seconds(), answer.Exit, answer.Out)
	}
	answer, err := m.ask(wire.Request{Read: &wire.Read{Path: "/usr/lib/qemu/virtiofsd", Context: true}}, longAsk)
	if want := object(policy.VirtiofsdExecType, "s0"); err != nil || answer.Out != want {
		t.Errorf("the file server's label: %q, %v, want %q", answer.Out, err, want)
	}
}

func isQEMU(r running) bool { return strings.HasPrefix(r.command, "qemu-system") }

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
