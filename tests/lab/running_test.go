// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// startShim runs two sandboxes of the built shim under a real containerd: each process has the
// label it should have, the pairs differ, and nothing was denied. None is kept from being killed
// when memory is short, as the engine is.
func startShim(t *testing.T, l *lab) {
	t.Helper()
	m := l.machine
	m.seen = nil
	defer unexpected(t, m)
	e := l.sandboxes(t)
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
		if label.Type == policy.ShimType {
			continue
		}
		if got := strings.TrimSpace(l.sh(t, fmt.Sprintf("cat /proc/%d/oom_score_adj", r.pid))); got != "0" {
			t.Errorf("%s has the oom_score_adj %s, want 0: it has inherited the engine's", r.command, got)
		}
	}
	for _, kind := range []string{policy.QEMUType, policy.VirtiofsdType} {
		slices.Sort(levels[kind])
		if len(slices.Compact(levels[kind])) != len(ids()) {
			t.Errorf("levels of %s: %q, want %d different ones", kind, levels[kind], len(ids()))
		}
	}
	l.startedFrom(t)
	l.cloneLabels(t)
	l.statuses(t)
	for _, args := range [][]string{{"policy", "test"}, {"labels"}, {"check"}} {
		answer, err := m.run(wire.Run{Argv: append([]string{"/lab/bin/cloister"}, args...), Env: labEnv()})
		if err != nil || (args[0] == "policy" && answer.Exit != 0) {
			t.Errorf("cloister %q: %v, exit %d", args, err, answer.Exit)
		}
		t.Logf("cloister %s: exit %d\n%s", strings.Join(args, " "), answer.Exit, answer.Out)
	}
}

// statuses prints what the kernel says of the sandboxes' processes, for docs/threats.md: ids,
// capabilities, filters, the context, and the namespaces that their shim is not in.
func (l *lab) statuses(t *testing.T) {
	t.Helper()
	t.Log(l.sh(t, `for p in $(pgrep qemu-system; pgrep virtiofsd); do
  s=$p; until grep -q shim /proc/$s/comm; do s=$(ps -o ppid= $s | tr -d ' '); [ $s -gt 1 ] || break; done
  echo; grep -E '^(Name|Uid|Gid|Groups|Cap|NoNew|Seccomp)' /proc/$p/status
  echo "attr/current: $( { tr -d '\0' </proc/$p/attr/current; } 2>/dev/null )"
  own=; for n in cgroup ipc mnt net pid user uts; do [ "$(readlink /proc/$p/ns/$n)" = "$(readlink /proc/$s/ns/$n)" ] || own="$own $n"; done
  echo "namespaces that the shim is not in:$own"; done`))
}

// room runs the labels room's own tests for a kernel that enforces, in the shim's domain.
func room(t *testing.T, l *lab) {
	t.Helper()
	m := l.machine
	answer, err := m.run(wire.Run{
		Argv: []string{"/lab/bin/labels.test", "-test.run=Enforcing", "-test.v"},
		Env:  append(labEnv(), "REQUIRE=enforcing,lab,qemu,virtiofsd"), Seconds: 200,
	})
	if err != nil || answer.Exit != 0 || !strings.Contains(answer.Out, "--- PASS: TestEnforcing") {
		t.Errorf("tests of labels: %v, exit %d:\n%s\n%s", err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
		return
	}
	t.Log(answer.Out)
	m.seen = nil // its refusals are denials too
}

// container runs a plain container of runc's under the container types, and has it attack a running
// sandbox.
func container(t *testing.T, l *lab) {
	t.Helper()
	e, m := l.sandboxes(t), l.machine
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
		{
			"map",
			[]string{"open", "/proc/" + strconv.Itoa(list[0].pid) + "/maps"},
			want{policy.ContainerType, policy.QEMUType, "dir", "search"},
		},
		{"signal", []string{"kill", strconv.Itoa(list[0].pid), "18"}, want{policy.ContainerType, policy.QEMUType, "process", "signal"}},
	} {
		answer, err := plain(m, test.name, levelA, append([]string{"/bin/probe-container"}, test.argv...)...)
		if err != nil || answer.Exit != 1 || !test.want.in(denials(answer.Audit), levelA, "") {
			t.Errorf("%s: %v, exit %d: %s: %s, want %s", test.name, err, answer.Exit, answer.Out, brief(denials(answer.Audit)), test.want)
		}
	}
}

// endShim uses and ends the sandboxes: nothing may be left.
func endShim(t *testing.T, l *lab) {
	t.Helper()
	e, m := l.sandboxes(t), l.machine
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
	l.live = nil
	for _, id := range ids() {
		l.nothingLeft(t, id, "/var/lib/cloister")
	}
}
