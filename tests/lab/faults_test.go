// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// faults are hosts on which no guest may start: the error says why, and nothing is left.
func faults(t *testing.T, l *lab) {
	t.Helper()
	e, m := l.engine(t), l.machine
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
