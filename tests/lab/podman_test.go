// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// TestPodman has a machine of its own.
func TestPodman(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	t.Cleanup(cancel)
	rounds(ctx, t, selinuxMAC, prepare(ctx, t, selinuxMAC), []scenario{{"podman", podman}})
}

// podman has Debian's Podman start containers by cloister-oci in both classes, and by crun as the
// mark: volumes with and without :z and :Z, and --security-opt label=.
func podman(t *testing.T, l *lab) {
	t.Helper()
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	p := &podmanLab{lab: l, podmanHost: podmanOn(kind)}
	p.install(t)
	runtimes := []podmanRuntime{
		{name: "crun", domain: policy.ContainerType, mark: true},
		{name: "cloister-process", domain: policy.ContainerType},
		{name: "cloister", domain: policy.QEMUType, machine: true},
	}
	if kind == fedoraPolicy { // its container_t is a name without the rules of container-selinux
		runtimes = runtimes[1:]
	}
	for _, r := range runtimes {
		l.part(t, r.name, func(t *testing.T) {
			by := *p
			if r.mark { // its containers write Podman's own pipes, which are at the level of the shell
				by.as = rootShell("s0")
			}
			by.labelsBy(t, r)
		})
	}
}

// podmanRuntime is one of Podman's runtimes, and what its containers run as.
type podmanRuntime struct {
	name, domain  string
	mark, machine bool
}

// podmanLab is Podman in the machine.
type podmanLab struct {
	*lab
	podmanHost
}

// install makes the runtimes known to Podman, and gives it types and an image.
func (p *podmanLab) install(t *testing.T) {
	t.Helper()
	p.sh(t, `cd /lab/bin; ln -sf cloister-oci cloister-oci-process; ln -sf containerd-shim-cloister-v2 containerd-shim-cloister-process-v2
cloister install podman; ip link set lo up; mkdir -p /var/lib/containers/storage/overlay
chcon -t `+p.program+` /usr/bin/podman /usr/bin/conmon; chcon -R -t `+p.store+` /var/lib/containers`)
	for path, text := range map[string]string{
		"/etc/containers/containers.conf.d/lab.conf": podmanConf, "/usr/share/containers/selinux/contexts": p.contexts,
	} {
		if err := p.write(wire.Write{Path: path, Data: []byte(text), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	p.ok(t, "load", "--quiet", "--input", "/lab/images.tar")
}

// podman runs Podman to its end.
func (p *podmanLab) podman(t *testing.T, args ...string) (out string, exit int) {
	t.Helper()
	answer, err := p.run(wire.Run{Argv: append(append(slices.Clone(p.as), "/usr/bin/podman"), args...), Env: labEnv(), Seconds: 200})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("podman %s\n%sexit %d; %s", strings.Join(args, " "), answer.Out, answer.Exit, brief(denials(answer.Audit)))
	return answer.Out, answer.Exit
}

// ok is podman that has to succeed.
func (p *podmanLab) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, exit := p.podman(t, args...)
	if exit != 0 {
		t.Fatalf("podman %s: exit %d: %s", strings.Join(args, " "), exit, out)
	}
	return strings.TrimSpace(out)
}

// fails is podman that has to fail and say why.
func (p *podmanLab) fails(t *testing.T, says string, args ...string) {
	t.Helper()
	if out, exit := p.podman(t, args...); exit == 0 || !strings.Contains(out, says) {
		t.Errorf("podman %s: exit %d: %s; want it to fail and say %q", strings.Join(args, " "), exit, out, says)
	}
}

// with are the options of a run by a runtime. label is more of the configuration's table of labels.
func (p *podmanLab) with(t *testing.T, r podmanRuntime, label string, args ...string) []string {
	t.Helper()
	flags := []string{"--runtime", r.name}
	if !r.mark {
		name := r.name + "-" + strconv.Itoa(len(label))
		flags = append(flags, "--runtime-flag", "config="+p.config(t, name, "", label, "[sizing]\ndefault_memory_mib = 192\n"))
	}
	return append(append(flags, "run", "--network", "none"), args...)
}

// labelsBy is what users of labels do, with one runtime.
func (p *podmanLab) labelsBy(t *testing.T, r podmanRuntime) {
	t.Helper()
	const pair = "s0:c1,c2"
	p.seen = nil
	dir := "/srv/podman/" + r.name
	p.sh(t, fmt.Sprintf("mkdir -p %[1]s/none %[1]s/own %[1]s/all; for d in none own all; do echo $d >%[1]s/$d/file; done; "+
		"chcon -t usr_t -l s0 /srv; chcon -R -t usr_t -l s0 /srv/podman", dir))
	refused := func(ours, marks string) string {
		if r.mark {
			return marks
		}
		return ours
	}
	volume := func(name, letter string) string { return "--volume=" + dir + "/" + name + ":/" + name + letter }

	t.Cleanup(func() { // for the next runtime, after a failure
		if p.lost == "" {
			p.podman(t, "rm", "--all", "--force", "--time", "0")
		}
	})
	p.fails(t, refused("chcon -R ", "Permission denied"),
		p.with(t, r, "", "--rm", volume("none", ""), images.BusyboxName, "cat", "/none/file")...)
	p.ok(t, p.with(t, r, "", "--detach", "--name", "one", "--security-opt", "label=level:"+pair, volume("own", ":Z"), volume("all", ":z"),
		images.BusyboxName, "sleep", "600")...)
	if got := p.labelOf(t, r, "one"); got.Type != r.domain || got.Range.String() != pair {
		t.Errorf("with label=level:%s it runs as %s, want type %s", pair, got, r.domain)
	}
	volumes := map[string]string{
		dir + "/own": object(p.file, pair), dir + "/own/file": object(p.file, pair),
		dir + "/all": object(p.file, "s0"), dir + "/all/file": object(p.file, "s0"),
	}
	p.wantFileLabels(t, volumes)
	p.ok(t, "exec", "one", "sh", "-c", "cat /own/file && echo one >>/own/file && echo one >>/all/file")

	p.ok(t, p.with(t, r, "", "--detach", "--name", "two", volume("all", ":z"), images.BusyboxName, "sleep", "600")...)
	if got := p.labelOf(t, r, "two"); got.Type != r.domain || got.Range.String() == pair {
		t.Errorf("the second runs as %s, want type %s and another pair", got, r.domain)
	}
	p.ok(t, "exec", "two", "sh", "-c", "grep one /all/file && echo two >>/all/file")
	p.ok(t, "exec", "one", "grep", "two", "/all/file")
	p.fails(t, refused("is at "+pair, "Permission denied"),
		p.with(t, r, "", "--rm", volume("own", ""), images.BusyboxName, "cat", "/own/file")...)
	p.options(t, r)
	p.terminals(t, r)
	p.split(t, r)

	ids := strings.Fields(p.ok(t, "inspect", "--format", "{{.Id}}", "one", "two"))
	p.ok(t, "rm", "--force", "--time", "0", "one", "two")
	p.wantFileLabels(t, volumes) // Podman does not give labels back
	if !r.mark {
		p.rules(t, r, dir)
		unexpected(t, p.machine)
	}
	p.gone(t, ids)
}

// options are those that are refused, or that only the configuration allows.
func (p *podmanLab) options(t *testing.T, r podmanRuntime) {
	t.Helper()
	run := func(option string) []string {
		return p.with(t, r, "", "--rm", "--security-opt", "label="+option, images.BusyboxName, "cat", "/proc/self/attr/current")
	}
	if r.mark {
		for _, option := range []string{"level:s0:c5", "disable"} {
			p.ok(t, run(option)...)
		}
		p.podman(t, run("type:httpd_t")...)
		return
	}
	p.fails(t, "has one category", run("level:s0:c5")...)
	p.fails(t, "httpd_t", run("type:httpd_t")...)
	p.fails(t, "label=disable: SELinux is enforcing", run("disable")...)
}

// terminals are those of a run and of an exec, with a terminal of the user's.
func (p *podmanLab) terminals(t *testing.T, r podmanRuntime) {
	t.Helper()
	const command = " sh -c 'test -t 0 && test -t 1 && echo x >/dev/tty && echo terminal; exit 6'"
	// A stdin without an end: script would type it as ^D.
	const typed = `f=$(mktemp -u) && mkfifo $f && exec 0<>$f && rm $f && exec script -qec "$1" /dev/null`
	for _, line := range []string{
		strings.Join(p.with(t, r, "", "--rm", "-it", images.BusyboxName), " ") + command, "exec -it one" + command,
	} {
		answer, err := p.run(wire.Run{
			Argv: append(slices.Clone(p.as), "/bin/sh", "-c", typed, "sh", "/usr/bin/podman "+line),
			Env:  labEnv(), Seconds: 200,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("podman %s\n%sexit %d; %s", line, answer.Out, answer.Exit, brief(denials(answer.Audit)))
		if !strings.Contains(answer.Out, "terminal\r\n") || answer.Exit != 6 {
			t.Errorf("podman %s: exit %d: %s; want a terminal, and exit 6", line, answer.Exit, answer.Out)
		}
	}
}

// split is --cgroups=split, as units of quadlet have it: the container's cgroup is below the one in
// which Podman runs.
func (p *podmanLab) split(t *testing.T, r podmanRuntime) {
	t.Helper()
	group := "/sys/fs/cgroup/unit-" + r.name
	unit := *p
	unit.as = append(slices.Clone(p.as), "/bin/sh", "-c", "mkdir "+group+" && echo $$ >"+group+`/cgroup.procs && exec "$@"`, "sh")
	unit.ok(t, p.with(t, r, "", "--detach", "--name", "split", "--cgroups", "split", images.BusyboxName, "sleep", "600")...)
	below := p.sh(t, "cd "+group+`; for f in $(find . -mindepth 2 -name cgroup.procs); do
for p in $(cat $f); do echo $f $(cat /proc/$p/comm); done; done`)
	t.Logf("below the unit's cgroup:\n%s", below)
	program := "sleep"
	if r.machine {
		program = "qemu-system-x86"
	}
	if !strings.Contains(below, "/cgroup.procs "+program) {
		t.Errorf("below the unit's cgroup: %s, want %s", below, program)
	}
	if got := p.ok(t, "exec", "split", "echo", "said"); got != "said" {
		t.Errorf("exec = %q", got)
	}
	id := p.ok(t, "inspect", "--format", "{{.Id}}", "split")
	p.ok(t, "rm", "--force", "--time", "0", "split")
	// Podman's own group stays, as it does with every runtime.
	if left := strings.TrimSpace(p.sh(t, "find "+group+" -mindepth 1 -type d ! -name runtime")); left != "" {
		t.Errorf("left: %s", left)
	}
	if !r.mark {
		p.nothingLeft(t, id, "/var/lib/cloister")
	}
	p.seen = slices.DeleteFunc(p.seen, func(record string) bool {
		d, ok := parseDenial(record)
		return ok && beside(d)
	})
}

// rules has the configuration label what Podman does not: a volume that is given back at the end,
// in a container that Podman was told to give no label.
func (p *podmanLab) rules(t *testing.T, r podmanRuntime, dir string) {
	t.Helper()
	label := "engine_disable = \"confine\"\nmounts = [{source = \"" + dir + "\", sharing = \"private\"}]\n"
	got := p.ok(t, p.with(t, r, label, "--rm", "--security-opt", "label=disable", "--volume="+dir+"/none:/none", images.BusyboxName,
		"sh", "-c", "echo new >/none/new && cat /none/file && cat /proc/self/attr/current || true")...)
	if !strings.HasPrefix(got, "none") || !r.machine && !strings.Contains(got, r.domain) {
		t.Errorf("label=disable where the configuration confines it: %q, want the volume's file and type %s", got, r.domain)
	}
	p.wantFileLabels(t, map[string]string{
		dir + "/none": object("usr_t", "s0"), dir + "/none/file": object("usr_t", "s0"), dir + "/none/new": object("usr_t", "s0"),
	})
}

// labelOf is the label of what confines a container: its process 1, or its machine's QEMU.
func (p *podmanLab) labelOf(t *testing.T, r podmanRuntime, name string) labels.Label {
	t.Helper()
	var text string
	if r.machine {
		text, _ = p.level(t, p.ok(t, "inspect", "--format", "{{.Id}}", name))
	} else {
		text = strings.Trim(p.ok(t, "exec", name, "cat", "/proc/1/attr/current"), "\x00\n")
	}
	label, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return label
}

// gone looks for what Podman's containers may have left.
func (p *podmanLab) gone(t *testing.T, ids []string) {
	t.Helper()
	t.Log(p.sh(t, "grep -r . /var/lib/cloister/mcs/kept || true"))
	if left := strings.TrimSpace(p.sh(t, `podman ps --all --quiet; pgrep -a conmon || true
find /run/cloister-oci /run/cloister/oci -mindepth 1 2>/dev/null || true
grep containers/storage/overlay/ /proc/mounts || true`)); left != "" {
		t.Errorf("left: %s", left)
	}
	for _, id := range ids {
		p.nothingLeft(t, id, "/var/lib/cloister")
	}
}
