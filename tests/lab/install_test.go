// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// install has the packages bring the module to a host that comes without it, as root's shell runs
// dpkg there. A sandbox runs with the configuration as shipped, goes on while the packages are
// upgraded, keeps the module from being removed, and does not start once that is gone.
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
	l.dpkg(t, append([]string{"--install"}, debs(packagesNow)...)...)
	l.policy(t, 0, "installed and current", "status")
	l.policy(t, 0, "", "test")
	l.wantFileLabels(t, map[string]string{
		"/usr/lib/qemu/virtiofsd":                object(policy.VirtiofsdExecType, "s0"),
		"/usr/bin/containerd-shim-cloister-v2":   object(policy.ShimExecType, "s0"),
		"/usr/share/cloister/guest/small/kernel": object(policy.ContentType, "s0"),
		"/var/lib/cloister":                      object(policy.VarLibType, "s0"),
	})
	e := l.asShipped(t)
	if err := e.run("protected"); err != nil {
		t.Fatal(err)
	}
	l.upgrade(t, e, "protected")
	l.policy(t, 1, "default/protected", "remove")
	if err := e.remove("protected"); err != nil {
		t.Fatal(err)
	}
	l.dpkg(t, "--remove", "cloister-selinux")
	l.policy(t, 0, "not installed", "status")
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	l.wantFileLabels(t, map[string]string{"/usr/lib/qemu/virtiofsd": object(fileServerType(kind), "s0")})
	if err := e.run("unprotected"); err == nil || !strings.Contains(err.Error(), "cloister policy install") {
		t.Errorf("a start without the module: %v, want it refused with the remedy", err)
	}
	l.nothingLeft(t, "unprotected", "/var/lib/cloister")
	l.dpkg(t, "--purge", "cloister-selinux", "cloister", "cloister-guest")
	if left := l.sh(t, "ls -d /etc/cloister /var/lib/cloister /run/cloister /usr/share/cloister /usr/bin/*cloister* "+
		"2>/dev/null || true"); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}
}

// debs are the packages in a folder of the machine.
func debs(folder string) []string {
	return []string{folder + "/cloister.deb", folder + "/cloister-guest.deb", folder + "/cloister-selinux.deb"}
}

// shellEnv is the environment of root's shell, or of an engine that systemd starts: nothing in it
// is cloister's.
func shellEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
}

// dpkg runs dpkg in the domain of root's shell.
func (l *lab) dpkg(t *testing.T, args ...string) {
	t.Helper()
	begin := time.Now()
	answer, err := l.run(wire.Run{
		Argv: append(append(rootShell(allLevels), "/bin/sh", "-c", `dpkg "$@"`, "sh"), args...), Env: shellEnv(), Seconds: 500,
	})
	if err != nil || answer.Exit != 0 || strings.Contains(answer.Out, "the policy is not installed") {
		t.Errorf("dpkg %s: %v, exit %d: %s; %s", args[0], err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
	}
	t.Logf("dpkg %s: %.1f s, exit %d; %s\n%s", args[0], time.Since(begin).Seconds(), answer.Exit, brief(denials(answer.Audit)), answer.Out)
}

// asShipped starts the machine's containerd anew, without the lab's settings of cloister.
func (l *lab) asShipped(t *testing.T) *engine {
	t.Helper()
	if l.made != nil {
		if _, err := l.ask(wire.Request{End: &wire.End{PID: l.made.pid}}, longAsk); err != nil {
			t.Fatal(err)
		}
	}
	e, err := startEngine(l.machine, shellEnv())
	if err != nil {
		t.Fatal(err)
	}
	l.made = e
	return e
}

// policy runs `cloister policy` of the installed packages and looks at its exit status and at what
// it says.
func (l *lab) policy(t *testing.T, exit int, says string, args ...string) {
	t.Helper()
	l.policyOf(t, "/usr/bin/cloister", exit, says, args...)
}

// policyOf does so with one of the versions of cloister in the machine.
func (l *lab) policyOf(t *testing.T, program string, exit int, says string, args ...string) {
	t.Helper()
	begin := time.Now()
	answer, err := l.run(wire.Run{Argv: append([]string{program, "policy"}, args...), Env: shellEnv(), Seconds: 400})
	if err != nil || answer.Exit != exit || !strings.Contains(answer.Out, says) {
		t.Errorf("%s policy %s: %v, exit %d, want %d and %q: %s; %s", program, args[0], err, answer.Exit, exit,
			says, answer.Out, brief(denials(answer.Audit)))
	}
	t.Logf("%s policy %s: %.1f s, exit %d\n%s", program, args[0], time.Since(begin).Seconds(), answer.Exit, answer.Out)
}

// allLevels is the range of root's login on Debian.
const allLevels = "s0-s0:c0.c1023"

// rootShell runs a program as root's shell does, on a host with users as Debian has them.
func rootShell(level string) []string {
	return []string{"/usr/bin/runcon", "unconfined_u:unconfined_r:unconfined_t:" + level}
}
