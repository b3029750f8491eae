// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// Where the kernel lists its profiles, and where cloister notes those that it has loaded.
const (
	profilesFile    = "/sys/kernel/security/apparmor/profiles"
	profilesJournal = "/var/lib/cloister/apparmor"
)

// otherScenarios are those of a host without SELinux.
func otherScenarios(m mac) []scenario {
	all := []scenario{
		{"start", startOther},
		{"volumes", volumes},
		{"matrix", proves},
		{"end", endOther},
		{"crash", crashOther},
		{"pods", podsOther},
	}
	if m == apparmorMAC {
		all = append(all, scenario{"plain", plainProfiles}, scenario{"complain", complain})
	}
	return all
}

// leftOut are the scenarios of SELinux's lab that the others do not have, with the reason.
func leftOut() map[string]string {
	return map[string]string{
		"labels":     "asks the kernel for SELinux contexts",
		"container":  "SELinux's domain of plain containers, without a shim",
		"process":    "labels of plain containers; plain is AppArmor's, and tests/integration has them without a control",
		"why":        "explains records of SELinux's policy",
		"modes":      "modes of SELinux levels, and relabelling of volumes",
		"sockets":    "the SELinux policy's rules about sockets of the host; tests/files has sockets in volumes",
		"links":      "links of the network, which no control mediates",
		"clash":      "another engine's SELinux level",
		"engines":    "pairs of two engines, drawn from the range of SELinux's label",
		"faults":     "faults of an SELinux host; complain is AppArmor's, and labels/apparmor has the others",
		"translated": "a domain of SELinux for emulated guests",
		"install":    "the SELinux policy module",
		"prove":      "is their matrix",
		"shared":     "a type of SELinux's policy; tests/integration has sandboxes that map one file without a control",
	}
}

// TestLeftOutScenariosHaveAReason fails for a scenario of SELinux's lab that the others neither
// have nor leave out.
func TestLeftOutScenariosHaveAReason(t *testing.T) {
	for _, m := range []mac{apparmorMAC, noMAC} {
		names, out := map[string]bool{}, leftOut()
		for _, s := range otherScenarios(m) {
			names[s.name] = true
		}
		for _, s := range scenarios() {
			if reason := out[s.name]; names[s.name] == (reason != "") {
				t.Errorf("MAC=%s, scenario %s: it is there: %t, reason to leave it out: %q: want one of the two",
					m, s.name, names[s.name], reason)
			}
		}
	}
}

// confinedBy says how the processes of sandboxes run: a line for each with role, sandbox, profile
// and uid.
func (l *lab) confinedBy(t *testing.T) [][]string {
	t.Helper()
	out := l.sh(t, `for p in $(pgrep qemu-system; pgrep virtiofsd); do
  s=$p; until id=$(tr '\0' ' ' </proc/$s/cmdline | grep -o -- '-id [^ ]*'); do s=$(ps -o ppid= $s | tr -d ' '); [ $s -gt 1 ] || exit 1; done
  for t in /proc/$p/task/*; do c=$( { tr -d ' ' <$t/attr/apparmor/current; } 2>/dev/null ) || c=-
    echo "$(cat /proc/$p/comm) ${id#-id } $c $(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' $t/status)"; done
done | sort -u`)
	var list [][]string
	for line := range strings.Lines(out) {
		list = append(list, strings.Fields(line))
	}
	return list
}

// startOther runs two sandboxes. Every thread of QEMU and of the file server runs in its sandbox's
// profile. The profiles differ and are enforced. Without AppArmor, no thread has one.
func startOther(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	l.sandboxes(t)
	profiles, users := map[string]string{}, map[string]string{}
	for _, p := range l.confinedBy(t) {
		t.Log(p)
		command, id, profile, uid := p[0], p[1], p[2], p[3]
		child := "//qemu(enforce)"
		if strings.HasPrefix(command, "virtiofsd") {
			child = "//virtiofsd(enforce)"
		} else if other, taken := users[uid]; uid == "0" || taken && other != id {
			t.Errorf("QEMU of %s runs as uid %s, want one of its own", id, uid)
		} else {
			users[uid] = id
		}
		if l.mac == noMAC {
			child = "-"
		}
		own, found := strings.CutSuffix(profile, child)
		if !found || l.mac == apparmorMAC && !strings.HasPrefix(own, "cloister-c") {
			t.Errorf("%s of %s runs in %s, want a profile of the sandbox's with %s", command, id, profile, child)
		}
		if before, seen := profiles[id]; seen && before != own {
			t.Errorf("%s has two profiles, %s and %s", id, before, own)
		}
		profiles[id] = own
	}
	first, second := profiles[ids()[0]], profiles[ids()[1]]
	if len(profiles) != 2 || len(users) != 2 || l.mac == apparmorMAC && first == second {
		t.Errorf("profiles %q, users %q, want two of each", profiles, users)
	}
	// The engine is kept from being killed when memory is short, and they are not.
	if scores := l.sh(t, "for p in $(pgrep qemu-system; pgrep virtiofsd); do cat /proc/$p/oom_score_adj; done | sort -u"); scores != "0\n" {
		t.Errorf("QEMU and the file servers have the oom_score_adj %q, want 0: they have inherited the engine's", scores)
	}
	l.startedFrom(t)
	for _, args := range []string{"check", "ps", "inspect first"} {
		answer, err := l.run(wire.Run{Argv: append([]string{"/lab/bin/cloister"}, strings.Fields(args)...), Env: labEnv()})
		if err != nil || args != "check" && answer.Exit != 0 {
			t.Errorf("cloister %s: %v, exit %d", args, err, answer.Exit)
		}
		if want := `"profile": "` + first + `"`; args == "inspect first" && l.mac == apparmorMAC && !strings.Contains(answer.Out, want) {
			t.Errorf("inspect does not say %s", want)
		}
		t.Logf("cloister %s: exit %d\n%s", args, answer.Exit, answer.Out)
	}
	l.statuses(t)
	l.unconfinedDenials(t)
}

// profileDenials are the audit records of what a sandbox's profile has denied.
func profileDenials(records []string) []string {
	var list []string
	for _, r := range records {
		if strings.Contains(r, `apparmor="DENIED"`) && strings.Contains(r, `profile="cloister-`) {
			list = append(list, r)
		}
	}
	return list
}

// unconfinedDenials fails for every denial that is nobody's attempt.
func (l *lab) unconfinedDenials(t *testing.T) {
	t.Helper()
	for _, r := range profileDenials(l.seen) {
		t.Errorf("denied: %s", r)
	}
}

// volumes uses a container with volumes, read-write and read-only, and a program executed in it.
func volumes(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	e := l.engine(t)
	l.sh(t, "mkdir -p /srv/rw /srv/ro; echo before >/srv/ro/file")
	const options = ",options=rbind"
	if err := e.run("volumes", "--mount", "type=bind,src=/srv/rw,dst=/rw"+options,
		"--mount", "type=bind,src=/srv/ro,dst=/ro"+options+":ro"); err != nil {
		t.Fatal(err)
	}
	out, err := e.ctr("task", "exec", "--exec-id", "x", "volumes", "sh", "-c",
		"cat /ro/file; echo after >/ro/file; mkdir /rw/d; echo made >/rw/d/f; ln /rw/d/f /rw/g; mv /rw/g /rw/d/h\n"+
			"chown 7:8 /rw/d/h; mkfifo /rw/p; ln -s d /rw/l\n"+
			"dd if=/dev/zero of=/rw/big bs=1M count=4 2>/dev/null; rm /rw/big; cat /rw/l/h; uname -r")
	if err != nil || !strings.Contains(out, "before") || !strings.Contains(out, "made") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("in the guest: %v: %s", err, out)
	}
	if got := strings.TrimSpace(l.sh(t, "cat /srv/ro/file /srv/rw/d/f; stat -c '%u:%g' /srv/rw/d/h")); got != "before\nmade\n7:8" {
		t.Errorf("volumes on the host: %q", got)
	}
	if err := e.remove("volumes"); err != nil {
		t.Error(err)
	}
	l.unconfinedDenials(t)
	l.noProfileOf(t, "volumes")
}

// noProfileOf wants that nothing of a sandbox is left, and no profile but those of the sandboxes
// that run.
func (l *lab) noProfileOf(t *testing.T, id string) {
	t.Helper()
	l.nothingLeft(t, id, "/var/lib/cloister")
	if l.mac != apparmorMAC {
		return
	}
	loaded := len(strings.Fields(l.sh(t, "sed -n 's/^\\(cloister-[^ /]*\\) (enforce)$/\\1/p' /sys/kernel/security/apparmor/profiles")))
	if loaded != len(l.live) {
		t.Errorf("%d profiles are loaded, %d sandboxes run:\n%s", loaded, len(l.live),
			l.sh(t, "cat "+profilesFile+"; ls -R "+profilesJournal))
	}
	if noted := strings.Fields(l.sh(t, "ls "+profilesJournal+" | grep cloister- || true")); len(noted) != len(l.live) {
		t.Errorf("the journal has %q, %d sandboxes run", noted, len(l.live))
	}
}

// endOther ends the sandboxes: nothing may be left.
func endOther(t *testing.T, l *lab) {
	t.Helper()
	e := l.sandboxes(t)
	l.seen = nil
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
		l.noProfileOf(t, id)
	}
	l.unconfinedDenials(t)
}

// crashOther kills a shim while its engine is stopped. The next start, by another engine, removes
// what the shim left behind.
func crashOther(t *testing.T, l *lab) {
	t.Helper()
	l.second(t)
	if err := l.engine(t).run("crashed"); err != nil {
		t.Fatal(err)
	}
	l.sh(t, "kill -STOP $(pgrep -ox containerd); kill -KILL $(pgrep -f 'containerd-shim-cloister-v2.*-id crashe[d]')\n"+
		"for n in $(seq 100); do pgrep qemu-system || exit 0; sleep 0.1; done; exit 1")
	if l.mac == apparmorMAC {
		if left := l.sh(t, "ls "+profilesJournal+"; cat "+profilesFile); !strings.Contains(left, "cloister-c") {
			t.Errorf("the killed shim has left no profile: the test shows nothing:\n%s", left)
		}
	}
	l.sh(t, two+" run --detach --runtime io.containerd.cloister.v2 "+images.BusyboxName+" next sleep 600")
	if l.mac == apparmorMAC {
		loaded := l.sh(t, "grep -c '^cloister-[^/]* (enforce)$' "+profilesFile)
		if strings.TrimSpace(loaded) != "1" {
			t.Errorf("%s profiles are loaded after the next start, want its own", loaded)
		}
	}
	l.sh(t, "kill -CONT $(pgrep -ox containerd); "+two+" task kill --signal KILL next\n"+
		"for n in $(seq 100); do "+two+" task delete --force next && break; sleep 0.2; done; "+two+" container delete next")
	l.sh(t, "for n in $(seq 100); do ctr container delete crashed && exit 0; sleep 0.2; done; exit 1")
	l.noProfileOf(t, "crashed")
}

// podsOther has containerd's CRI start a pod with a second container.
func podsOther(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	l.second(t)
	pod := func(args ...string) string {
		argv := append([]string{"/lab/bin/pods", "unix:///run/containerd2/containerd.sock"}, args...)
		answer, err := l.run(wire.Run{Argv: argv, Env: labEnv(), Seconds: 200})
		if err != nil || answer.Exit != 0 {
			t.Fatalf("pods %q: %v, exit %d: %s", args, err, answer.Exit, answer.Out)
		}
		return strings.TrimSpace(answer.Out)
	}
	id := pod("run", "plain", "")
	pod("container", id, "other", "")
	for _, p := range l.confinedBy(t) {
		if p[1] == id && l.mac == apparmorMAC && !strings.HasPrefix(p[2], "cloister-c") {
			t.Errorf("%s of the pod runs in %s", p[0], p[2])
		}
	}
	pod("remove", id)
	l.unconfinedDenials(t)
	l.noProfileOf(t, id)
}

// complain has the kernel enforce no profile, before a start and in the middle of one: no guest
// runs.
func complain(t *testing.T, l *lab) {
	t.Helper()
	const mode = "/sys/module/apparmor/parameters/mode"
	for step, spoil := range map[string]string{planned: "", launched: "printf complain >" + mode} {
		id := "complain-" + strings.Fields(step)[0]
		if spoil == "" {
			l.sh(t, "printf complain >"+mode)
		}
		out, err := l.held(t, id, step, l.config(t, id, "", "", ""), spoil)
		l.sh(t, "printf enforce >"+mode)
		if err == nil || !strings.Contains(out, "complain mode") || !strings.Contains(out, "printf enforce >"+mode) {
			t.Errorf("%s: want a refusal that says what to do: %s", id, out)
		}
		if steps := l.steps(t, id); strings.Contains(steps, "kernel reached") {
			t.Errorf("the guest has run: %s", steps)
		}
		l.sh(t, "ctr container delete "+id)
		l.noProfileOf(t, id)
	}
}
