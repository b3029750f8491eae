// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// sockets has a guest speak to servers of the host whose sockets are its volumes: an engine's
// neighbour, one whose domain the site has allowed, and one whose domain it has not. Then a debug
// shell enters the guest, and parties that must not reach that shell try to.
func sockets(t *testing.T, l *lab) {
	t.Helper()
	e := l.engine(t)
	l.seen = nil
	const folder = "/run/lab/sockets"
	l.sh(t, "mkdir -p "+folder)
	servers := map[string]string{"plain": "initrc_t", "allowed": servingDomain, "other": otherDomain}
	var mounts []string
	for name, domain := range servers {
		path := folder + "/" + name
		answer, err := l.run(wire.Run{Argv: []string{"/lab/probe/probe-plain", "serve", path, process(domain, "s0")}, Stay: true})
		if err != nil || answer.Out != "listens" {
			t.Fatalf("a server in %s: %v, %s; %s", domain, err, answer.Out, brief(denials(answer.Audit)))
		}
		defer func() {
			if _, err := l.ask(wire.Request{End: &wire.End{PID: answer.PID}}, longAsk); err != nil && l.lost == "" {
				t.Error(err)
			}
		}()
		mounts = append(mounts, "--mount", "type=bind,src="+path+",dst=/run/"+name+",options=rbind")
	}
	if err := e.run("unlisted", mounts...); err == nil || !strings.Contains(err.Error(), "workloads.sockets") {
		t.Errorf("sockets that are not listed: %v, want them refused with what to set", err)
	}
	l.sh(t, "ctr container delete unlisted")
	config := l.config(t, "sockets", "", "", "[workloads]\nsockets = [\""+folder+"\"]\n[debug]\nshell = \"/bin/busybox\"\n")
	if err := e.run("talker", append(mounts, "--runtime-config-path", config)...); err != nil {
		t.Fatal(err)
	}
	talk := func(name string) string {
		out, err := e.ctr("task", "exec", "--exec-id", "x", "talker", "sh", "-c",
			"printf word | probe dial /run/"+name+" 2>/dev/null; echo .")
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(out)
	}
	for _, name := range []string{"plain", "allowed"} {
		if got := talk(name); got != "word." {
			t.Errorf("a server in %s answers %q", servers[name], got)
		}
	}
	unexpected(t, l.machine)
	l.seen = nil
	for range 2 { // the log is to have it once
		if got := talk("other"); got != "." {
			t.Errorf("a server in %s answers %q, and the policy does not allow it", otherDomain, got)
		}
	}
	l.refusalIsTold(t, want{policy.ShimType, otherDomain, "unix_stream_socket", "connectto"})
	l.seen = nil
	shells(t, l, "talker")
	if err := e.remove("talker"); err != nil {
		t.Error(err)
	}
	unexpected(t, l.machine)
	l.nothingLeft(t, "talker", "/var/lib/cloister")
}

// refusalIsTold looks for the denial, for the shim's message in the engine's log, and for the
// command that `cloister why` names.
func (l *lab) refusalIsTold(t *testing.T, w want) {
	t.Helper()
	if !w.in(denials(l.seen), "s0", "s0") {
		t.Errorf("no denial %s: %s", w, brief(denials(l.seen)))
	}
	// The engine copies the shim's log by and by.
	const look = "for i in $(seq 600); do grep 'connection to a socket of the host' /proc/%d/fd/2 && break; sleep 0.1; done"
	log := l.sh(t, fmt.Sprintf(look, l.made.pid))
	if strings.Count(log, "cloister why") != 1 || !strings.Contains(log, "permission denied") {
		t.Errorf("the log does not say once what happened and what to do: %q", log)
	}
	if err := l.write(wire.Write{Path: "/run/lab/audit.log", Data: []byte(l.auditLog())}); err != nil {
		t.Fatal(err)
	}
	out := l.sh(t, "cloister why --log /run/lab/audit.log")
	if rule := strings.TrimSpace(strings.ReplaceAll(siteRule, servingDomain, otherDomain)); !strings.Contains(out, rule) {
		t.Errorf("cloister why does not name the rule %s:\n%s", rule, out)
	}
}

// shells looks into a sandbox as root's shell does, and as those do that must not.
func shells(t *testing.T, l *lab, id string) {
	t.Helper()
	const look = "cloister debug %s sh -c \"cat /proc/1/comm; exit 3\" || echo exit $?"
	for _, as := range []string{"", "runcon unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023 "} {
		if out := l.sh(t, as+fmt.Sprintf(look, id)); out != "init\nexit 3\n" {
			t.Errorf("%scloister debug: %q", as, out)
		}
	}
	unexpected(t, l.machine)
	qemu, _ := l.level(t, id)
	own, err := labels.Parse(qemu)
	if err != nil {
		t.Fatal(err)
	}
	attack := func(d domain, level string) {
		l.seen = nil
		answer, err := l.run(wire.Run{
			Argv:  []string{d.probe, "connect", "/run/cloister/default/" + id + "/debug"},
			Entry: entry(d, level), Seconds: 30,
		})
		w := want{d.kind, policy.RunType, "dir", "search"}
		if err != nil || answer.Exit != 1 || !w.in(denials(l.seen), level, "") {
			t.Errorf("%s at %s: %v, exit %d: %s: %s, want %s", d.name, level, err, answer.Exit, answer.Out, brief(denials(l.seen)), w)
		}
	}
	attack(domains()["qemu"], levelA)
	attack(domains()["qemu"], own.Range.String())
	attack(domains()["virtiofsd"], own.Range.String())
	attack(domains()["container"], levelA)
	attack(domain{name: "a daemon", kind: otherDomain, through: "/lab/bin/enter-runtime", probe: "/lab/probe/probe-other"}, "s0")
	l.seen = nil
	if out := l.sh(t, "/lab/probe/probe-plain connect /run/cloister/default/"+id+"/debug"); out != "ok\n" {
		t.Errorf("the same by the host's own: %q", out)
	}
}
