// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// install has the command line build, load and check the module itself, on the host without it.
func install(t *testing.T, l *lab) {
	t.Helper()
	if took := time.Since(l.begun); took > late {
		t.Skipf("takes minutes, and %.0f s are gone", took.Seconds())
	}
	m := l.machine
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
