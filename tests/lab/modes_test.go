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

// byAnnotation switches the annotations of labels on.
const byAnnotation = `[workloads]
annotations = ["io.cloister.labels.mode", "io.cloister.labels.label", "io.cloister.labels.share", "io.cloister.labels.mounts"]
`

// modes starts sandboxes in each mode beside the usual one, and asks each what it can write. One is
// static without relabelling, by annotation. Two share a pair on purpose; they have a folder of
// their own and one to read.
func modes(t *testing.T, l *lab) {
	t.Helper()
	e := l.engine(t)
	l.seen = nil
	const static = "s0:c700,c701"
	config := l.config(t, "modes", "", "", byAnnotation+"watch = [\"/srv/kept\"]\n")
	l.sh(t, fmt.Sprintf(`mkdir -p /srv/kept /srv/group /srv/ref /srv/all; for d in kept group ref all; do echo $d >/srv/$d/file; done
chcon -R -t usr_t -l s0 /srv; chcon -R -t %s -l %s /srv/kept`, policy.RootfsType, static))
	mount := func(name string) []string {
		return []string{"--mount", "type=bind,src=/srv/" + name + ",dst=/" + name + ",options=rbind"}
	}
	annotate := func(pairs ...string) []string {
		flags := []string{"--runtime-config-path", config}
		for _, p := range pairs {
			flags = append(flags, "--annotation", "io.cloister.labels."+p)
		}
		return flags
	}
	flags := append(annotate("mode=static", "label=system_u:system_r:"+policy.QEMUType+":"+static), mount("kept")...)
	if err := e.run("static", flags...); err != nil {
		t.Fatal(err)
	}
	group := append(annotate("share=group", "mounts=/group=private;/ref=readonly;/all=shared"),
		append(mount("group"), append(mount("ref"), mount("all")...)...)...)
	for _, id := range []string{"member1", "member2"} {
		if err := e.run(id, group...); err != nil {
			t.Fatal(err)
		}
	}
	unexpected(t, l.machine)
	label, _ := l.level(t, "static")
	if want := process(policy.QEMUType, static); label != want {
		t.Errorf("the static sandbox runs as %s, want %s", label, want)
	}
	one, _ := l.level(t, "member1")
	two, _ := l.level(t, "member2")
	if one != two || one == label {
		t.Errorf("those that share a pair run as %s and %s", one, two)
	}
	parsed, err := labels.Parse(one)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("static %s; shared %s", label, one)
	l.wantLabels(t, map[string]string{
		"kept": object(policy.RootfsType, static), "group": object(policy.RootfsType, parsed.Range.String()),
		"ref": object(policy.ContentType, "s0"), "all": object(policy.RootfsType, "s0"),
	})
	in := func(id, script string) error {
		_, err := e.ctr("task", "exec", "--exec-id", "x", id, "sh", "-c", script)
		return err
	}
	for _, x := range []struct {
		id, script string
		works      bool
	}{
		{"static", "grep kept /kept/file && echo static >/kept/new", true},
		{"member1", "echo one >/group/one && echo one >/all/one && grep ref /ref/file", true},
		{"member2", "grep one /group/one && echo two >>/group/one && grep one /all/one && grep ref /ref/file", true},
		{"member1", "echo x >/ref/file", false},
		{"member2", "echo x >/ref/new", false},
	} {
		l.seen = nil
		err := in(x.id, x.script)
		if (err == nil) != x.works {
			t.Errorf("%s: %s: %v, want it to work: %t", x.id, x.script, err, x.works)
		}
		denied := want{policy.VirtiofsdType, policy.ContentType, "file", "write"}
		if strings.Contains(x.script, "new") {
			denied = want{policy.VirtiofsdType, policy.ContentType, "dir", "write"}
		}
		if !x.works && !denied.in(denials(l.seen), parsed.Range.String(), "s0") {
			t.Errorf("%s: %s: without the denial %s: %s", x.id, x.script, denied, brief(denials(l.seen)))
		}
	}
	l.seen = nil
	if err := in("static", "probe watch /kept file >/tmp/seen 2>&1 & until [ -s /tmp/seen ]; do sleep 0.1; done"); err != nil {
		t.Error(err)
	}
	l.sh(t, "echo kept and changed >/srv/kept/file")
	if err := in("static", "for i in $(seq 300); do grep changed /tmp/seen && exit; sleep 0.1; done; exit 1"); err != nil {
		t.Errorf("a change of the host's in a watched volume: %v; %s", err, brief(denials(l.seen)))
	}
	unexpected(t, l.machine)
	told := l.sh(t, "cloister labels")
	if strings.Contains(told, "is held by") || strings.Count(told, parsed.Range.String()) < 2 {
		t.Errorf("cloister labels:\n%s", told)
	}
	l.bothClasses(t, "member1")
	l.seen = nil
	if err := e.remove("member1"); err != nil {
		t.Error(err)
	}
	l.wantLabels(t, map[string]string{"group": object(policy.RootfsType, parsed.Range.String())})
	for _, id := range []string{"member2", "static"} {
		if err := e.remove(id); err != nil {
			t.Error(err)
		}
	}
	unexpected(t, l.machine)
	l.wantLabels(t, map[string]string{"group": object("usr_t", "s0"), "kept": object(policy.RootfsType, static)})
}

// bothClasses has a machine and a plain container share /srv/all on purpose: each reads the other's
// line. The private volume of each, /srv/group and /srv/plain, is refused to the other's class.
func (l *lab) bothClasses(t *testing.T, machine string) {
	t.Helper()
	const plain = "beside-crun"
	l.seen = nil
	l.sh(t, "mkdir -p /srv/plain && echo plain >/srv/plain/file && chcon -R -t usr_t -l s0 /srv/plain")
	process, vm := l.plainConfig(t, plain), l.config(t, "thief", "", "", byAnnotation)
	start := func(id, config, volumes string) error {
		flags := []string{"--runtime-config-path", config, "--annotation", "io.cloister.labels.mounts=" + volumes}
		for volume := range strings.SplitSeq(volumes, ";") {
			name, _, _ := strings.Cut(volume, "=")
			flags = append(flags, "--mount", "type=bind,src=/srv"+name+",dst="+name+",options=rbind")
		}
		return l.made.run(id, flags...)
	}
	if err := start(plain, process, "/plain=private;/all=shared"); err != nil {
		t.Fatal(err)
	}
	level := l.plainOf(t, plain).level()
	// The file server keeps names and sizes for a second.
	const sees = "for i in $(seq 100); do grep -q %s /all/file && exit; sleep 0.1; done; cat /all/file; exit 1"
	for _, x := range []struct{ id, script string }{
		{machine, "echo of-the-machine >>/all/file"},
		{plain, fmt.Sprintf(sees, "of-the-machine")},
		{plain, "echo of-the-container >>/all/file"},
		{machine, fmt.Sprintf(sees, "of-the-container")},
	} {
		if out, err := l.made.ctr("task", "exec", "--exec-id", "x", x.id, "sh", "-c", x.script); err != nil {
			t.Errorf("%s: %s: %v: %s", x.id, x.script, err, out)
		}
	}
	for _, x := range []struct{ id, config, volume, owner string }{
		{"thief-crun", process, "/group", machine},
		{"thief-vm", vm, "/plain", plain},
	} {
		err := start(x.id, x.config, x.volume+"=private")
		for _, says := range []string{"/srv" + x.volume, " has label ", " for sandbox default/" + x.owner + ": stop it first"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s with the private volume of %s: %v, want a refusal that says %q", x.id, x.owner, err, says)
			}
		}
		t.Logf("%s: %v", x.id, err)
		l.sh(t, "ctr container delete "+x.id)
		l.nothingLeft(t, x.id, "/var/lib/cloister")
	}
	l.wantFileLabels(t, map[string]string{"/srv/plain/file": object(policy.ContainerFileType, level)})
	if err := l.made.remove(plain); err != nil {
		t.Error(err)
	}
	unexpected(t, l.machine)
	l.wantFileLabels(t, map[string]string{"/srv/plain/file": object("usr_t", "s0")})
}

// wantLabels looks at folders in /srv and what is in them.
func (l *lab) wantLabels(t *testing.T, want map[string]string) {
	t.Helper()
	for name, label := range want {
		if wrong := strings.TrimSpace(l.sh(t, "cd /srv/"+name+"; stat -c %C . * | grep -vx '.*:"+strings.SplitN(label,
			":", 3)[2]+"' || true")); wrong != "" {
			t.Errorf("labels in /srv/%s: %s, want %s", name, wrong, label)
		}
	}
}

// translated has a sandbox whose QEMU translates code, with a base label of which only the type
// counts. It takes minutes inside a machine that is emulated itself.
func translated(t *testing.T, l *lab) {
	t.Helper()
	l.engine(t)
	config := l.config(t, "translated", "", "base = \"staff_u:staff_r:"+policy.QEMUTCGType+":s0:c1,c2\"\n", "[machine]\naccel = \"tcg\"\n")
	l.sh(t, "( "+ctrRun(config, "translated")+" >/run/lab/translated 2>&1; echo \"exit $?\" >>/run/lab/translated ) >/dev/null 2>&1 &")
	// A quiet host needs 190 s, one that has but one processor for the lab more than twice that.
	answer, err := l.run(wire.Run{Argv: []string{
		"/bin/sh", "-c",
		"until grep -q ^exit /run/lab/translated; do sleep 0.2; done; cat /run/lab/translated",
	}, Seconds: 550})
	out := answer.Out
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "exit 0") {
		t.Fatalf("the translated sandbox: %s\n%s", out,
			l.sh(t,
				"set +e; cloister inspect translated; tail -n 20 /run/cloister/default/translated/console.log; ps -eo "+
					"pid,label,time,comm | grep -E 'cloister|ctr'; true"))
	}
	text, _ := l.level(t, "translated")
	label, err := labels.Parse(text)
	if err != nil || label.User != "system_u" || label.Role != "system_r" ||
		label.Type != policy.QEMUTCGType || label.Range.String() == "s0:c1,c2" {
		t.Errorf("QEMU runs as %s, %v, want type %s and no more of the base label", text, err, policy.QEMUTCGType)
	}
	out, err = l.made.ctr("task", "exec", "--exec-id", "x", "translated", "uname", "-r")
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s, the guest's kernel: %s", text, strings.TrimSpace(out))
	if err := l.made.remove("translated"); err != nil {
		t.Error(err)
	}
}

// ctrRun is the command that starts a sandbox with a configuration of its own.
func ctrRun(config, id string) string {
	return "ctr run --detach --runtime io.containerd.cloister.v2 --runtime-config-path " + config +
		" docker.io/cloister/busybox:latest " + id + " sleep 3000"
}

// why has a sandbox of the shim attacked, and the command line explain what the kernel wrote.
func why(t *testing.T, l *lab) {
	t.Helper()
	e := l.sandboxes(t)
	label, pid := l.level(t, "first")
	parsed, err := labels.Parse(label)
	if err != nil {
		t.Fatal(err)
	}
	l.seen = nil
	w := &world{m: l.machine, words: map[string]map[string]string{}, levels: map[string]string{}}
	if err := w.sandboxes(e); err != nil {
		t.Fatal(err)
	}
	l.seen = nil
	for _, operation := range []string{"open /etc/shadow", "open {dir}/console.log"} {
		a := attempt{from: "qemu", try: operation, by: "first", against: "second"}
		if _, err := w.try(a, operation, "first", "second"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.write(wire.Write{Path: "/run/lab/audit.log", Data: []byte(l.auditLog())}); err != nil {
		t.Fatal(err)
	}
	out := l.sh(t, "cloister why --log /run/lab/audit.log default/first || echo exit $?") // 3: there are attacks
	t.Logf("QEMU %d at %s:\n%s", pid, parsed.Range, out)
	for _, text := range []string{"attack", "shadow", "exit 3"} {
		if !strings.Contains(out, text) {
			t.Errorf("cloister why does not say %q:\n%s", text, out)
		}
	}
}

// auditLog is what was seen, as auditd writes it.
func (l *lab) auditLog() string {
	var log strings.Builder
	for _, record := range l.seen {
		log.WriteString(strings.Replace(record, "type=1400 audit(", "type=AVC msg=audit(", 1) + "\n")
	}
	return log.String()
}
