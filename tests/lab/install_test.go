// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// install has the command line build, load, check and remove the module itself, on a host that
// comes without it: a sandbox runs with it, goes on while it is upgraded, keeps it from being
// removed, and does not start once it is gone.
func install(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	// The root's own store is of Debian's policy, whatever the lab's is.
	if answer, err := l.run(wire.Run{
		Argv: []string{"/bin/tar", "-C", "/", "-xf", "/lab/policy/store.tar"},
		Env:  labEnv(), Seconds: 100,
	}); err != nil || answer.Exit != 0 {
		t.Fatalf("unpack the policy's store: %v: %+v", err, answer)
	}
	if _, err := l.ask(wire.Request{Policy: &wire.Policy{Load: "/lab/policy/base"}}, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	fileServer := func() string {
		answer, err := l.ask(wire.Request{Read: &wire.Read{Path: "/usr/lib/qemu/virtiofsd", Context: true}}, longAsk)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Out
	}
	l.policy(t, 0, "", "install")
	l.policy(t, 0, "installed and current", "status")
	l.policy(t, 0, "", "test")
	if got, want := fileServer(), object(policy.VirtiofsdExecType, "s0"); got != want {
		t.Errorf("the file server's label: %q, want %q", got, want)
	}
	e := l.engine(t)
	if err := e.run("protected"); err != nil {
		t.Fatal(err)
	}
	l.upgrade(t, e, "protected")
	l.policy(t, 1, "default/protected", "remove")
	if err := e.remove("protected"); err != nil {
		t.Fatal(err)
	}
	l.policy(t, 0, "", "remove")
	l.policy(t, 0, "not installed", "status")
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fileServer(), object(fileServerType(kind), "s0"); got != want {
		t.Errorf("the file server's label after the removal: %q, want the base policy's %q", got, want)
	}
	if err := e.run("unprotected"); err == nil || !strings.Contains(err.Error(), "cloister policy install") {
		t.Errorf("a start without the module: %v, want it refused with the remedy", err)
	}
	l.nothingLeft(t, "unprotected", "/var/lib/cloister")
}

// policy runs `cloister policy` and looks at its exit status and at what it says.
func (l *lab) policy(t *testing.T, exit int, says string, args ...string) {
	t.Helper()
	l.policyOf(t, "cloister", exit, says, args...)
}

// policyOf does so with one of the versions of cloister in the machine.
func (l *lab) policyOf(t *testing.T, program string, exit int, says string, args ...string) {
	t.Helper()
	begin := time.Now()
	answer, err := l.run(wire.Run{Argv: append([]string{"/lab/bin/" + program, "policy"}, args...), Env: labEnv(), Seconds: 400})
	if err != nil || answer.Exit != exit || !strings.Contains(answer.Out, says) {
		t.Errorf("%s policy %s: %v, exit %d, want %d and %q: %s; %s", program, args[0], err, answer.Exit, exit,
			says, answer.Out, brief(denials(answer.Audit)))
	}
	t.Logf("%s policy %s: %.1f s, exit %d\n%s", program, args[0], time.Since(begin).Seconds(), answer.Exit, answer.Out)
}
