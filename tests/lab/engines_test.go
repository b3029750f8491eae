// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// clash has another engine's container come up at the pair that a sandbox has drawn, between the
// draw and the guest's first instruction: the sandbox gets another pair. Its memory is of huge
// pages, and at the pair as well.
func clash(t *testing.T, l *lab) {
	t.Helper()
	l.engine(t)
	// 300 MiB: room for one guest of 160 and 96 MiB, and not for two. The first has to be gone.
	l.sh(t, "echo 150 >/proc/sys/vm/nr_hugepages; [ $(cat /proc/sys/vm/nr_hugepages) = 150 ]")
	config := l.config(t, "clash", "", "", "[machine]\nhugepages = true\n[sizing]\ndefault_memory_mib = 160\n")
	out, err := l.held(t, "clash", launched, config, `
ps -o label= $qemu | tr -d ' ' >/run/lab/held/clash.first
level=$(cut -d: -f4- /run/lab/held/clash.first)
runcon system_u:system_r:`+policy.ContainerType+`:$level /lab/probe/probe-container hold lab-clash 4001 >/dev/null 2>&1 &
for n in $(seq 100); do ps -eo label= | grep -q "`+policy.ContainerType+`:$level\$" && break; sleep 0.2; done`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := strings.TrimSpace(l.sh(t, "cat /run/lab/held/clash.first"))
	now, pid := l.level(t, "clash")
	t.Logf("drawn %s, clashed, runs as %s", first, now)
	if first == now || !strings.HasPrefix(now, process(policy.QEMUType, "s0:c")) {
		t.Errorf("QEMU runs as %s, was drawn %s", now, first)
	}
	if steps := l.steps(t, "clash"); strings.Count(steps, "kernel reached") != 1 || !strings.Contains(steps, launched+" #2\n") {
		t.Errorf("want two machines and one that ran:\n%s", steps)
	}
	huge := strings.TrimSpace(l.sh(t,
		fmt.Sprintf(`for f in /proc/%[1]d/fd/*; do case $(readlink $f) in /memfd:*) stat -L -c %%C $f;; esac; done`, pid)))
	level := strings.SplitN(now, ":", 4)[3]
	if used := l.sh(t, "grep HugePages_Free /proc/meminfo"); !strings.HasSuffix(huge, object("cloister_qemu_tmpfs_t", level)) ||
		strings.Contains(used, " 150\n") {
		t.Errorf("memory of huge pages: %s; %s, want %s", huge, used, object("cloister_qemu_tmpfs_t", level))
	}
	if told := l.sh(t, "cloister labels"); strings.Contains(told, "is held by") {
		t.Errorf("cloister labels tells of a clash:\n%s", told)
	}
	if err := l.made.remove("clash"); err != nil {
		t.Error(err)
	}
	l.sh(t, "pkill -f [l]ab-clash")
	l.sh(t, "echo 0 >/proc/sys/vm/nr_hugepages")
	l.nothingLeft(t, "clash", "/var/lib/cloister")
}

// narrow has eight categories, which make 28 pairs.
const narrow = "range = \"s0:c0.c7\"\n"

// engines has two containerds at once, with registries that know nothing of each other, and another
// engine's containers at all but two of the pairs there are: no pair is given twice, and none is
// left for a third sandbox.
func engines(t *testing.T, l *lab) {
	t.Helper()
	l.engine(t)
	second := l.config(t, "second", "state = \"/run/cloister2\"\nroot = \"/var/lib/cloister2\"\n", narrow, "")
	first := l.config(t, "first", "", narrow, "")
	l.sh(t, `mkdir -p /run/cloister2 /var/lib/cloister2; chcon -t `+policy.RunType+
		` /run/cloister2; chcon -t `+policy.VarLibType+` /var/lib/cloister2`)
	var taken []string
	for a := range 8 {
		for b := a + 1; b < 8; b++ {
			taken = append(taken, fmt.Sprintf("s0:c%d,c%d", a, b))
		}
	}
	taken = taken[:len(taken)-2] // c5,c7 and c6,c7 are left
	l.sh(t,
		fmt.Sprintf(`for l in %s; do runcon system_u:system_r:%s:$l /lab/probe/probe-container hold lab-other-$l 0 >/dev/null 2>&1 & done
for n in $(seq 100); do [ $(ps -eo label= | grep -c %[2]s) -lt %d ] || exit 0; sleep 0.2; done
	exit 1`, strings.Join(taken, " "), policy.ContainerType, len(taken)))
	l.second(t)
	run := func(ctr, config, id string) string {
		return fmt.Sprintf("%s run --detach --runtime io.containerd.cloister.v2 --runtime-config-path %s %s %s sleep 600",
			ctr, config, images.BusyboxName, id)
	}
	out := l.sh(t, fmt.Sprintf("( %s; echo \"exit $?\" ) 2>&1 & ( %s; echo \"exit $?\" ) 2>&1 & wait",
		run("ctr", first, "alpha"), run(two, second, "beta")))
	if strings.Count(out, "exit 0") != 2 {
		t.Fatalf("two engines at once: %s", out)
	}
	got := map[string]string{}
	for _, id := range []string{"alpha", "beta"} {
		text, _ := l.level(t, id)
		label, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		level := label.Range.String()
		if other, twice := got[level]; twice {
			t.Errorf("%s and %s are both at %s", id, other, level)
		}
		for _, held := range taken {
			if held == level {
				t.Errorf("%s is at %s, which another engine's container has", id, level)
			}
		}
		got[level] = id
	}
	t.Logf("levels: %v; %d pairs were another engine's", got, len(taken))
	answer, err := l.run(wire.Run{Argv: []string{"/bin/sh", "-c", run("ctr", first, "gamma")}, Env: labEnv(), Seconds: 120})
	if err != nil || answer.Exit == 0 || !strings.Contains(answer.Out, "28 pairs") || !strings.Contains(answer.Out, "widen the range") {
		t.Errorf("a third sandbox: %v, exit %d: %s", err, answer.Exit, answer.Out)
	}
	t.Logf("a third: %s", strings.TrimSpace(answer.Out))
	l.sh(t, "ctr container delete gamma; pkill -f [l]ab-other")
	l.nothingLeft(t, "gamma", "/var/lib/cloister")
	if err := l.made.remove("alpha"); err != nil {
		t.Error(err)
	}
	l.sh(t, two+" task kill --signal KILL beta; until "+two+" task delete --force beta; do sleep 0.2; done; "+two+" container delete beta")
	l.nothingLeft(t, "beta", "/var/lib/cloister2")
}

// two is the client of the second containerd.
const two = "/lab/two/ctr --address /run/containerd2/containerd.sock"

// second starts the clients' containerd, a newer one, with CRI and its labels, beside the
// distribution's.
func (l *lab) second(t *testing.T) {
	t.Helper()
	if l.twoPID != 0 {
		return
	}
	l.sh(t, "mkdir -p /usr/share/containers/selinux; cp /lab/two/contexts /usr/share/containers/selinux/contexts; ip link set lo up; "+
		"mkfs.ext4 -q -O ^has_journal -E root_owner=0:0 "+secondScratch+" 32M")
	answer, err := l.run(wire.Run{Argv: []string{"/lab/two/containerd", "--config", "/lab/two/containerd.toml"}, Env: labEnv(), Stay: true})
	if err != nil {
		t.Fatal(err)
	}
	l.twoPID = answer.PID
	l.sh(t, "for n in $(seq 100); do if "+two+" version >/dev/null 2>&1; then exit 0; fi; sleep 0.2; done; exit 1")
	l.sh(t, "for ns in default k8s.io; do "+two+" --namespace $ns images import /lab/images.tar; done")
}

// pods has containerd's CRI start pods with enable_selinux: what it labels is kept at its level,
// and swapped in type.
func pods(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	l.second(t)
	pod := func(args ...string) string {
		answer, err := l.run(wire.Run{
			Argv: append([]string{"/lab/bin/pods", "unix:///run/containerd2/containerd.sock"}, args...),
			Env:  labEnv(), Seconds: 200,
		})
		if err != nil || answer.Exit != 0 {
			t.Fatalf("pods %q: %v, exit %d: %s; %s", args, err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
		}
		return strings.TrimSpace(answer.Out)
	}
	spec := func(id string) string { // the process's label that CRI has put into the spec
		out := l.sh(t, two+" --namespace k8s.io containers info "+id+` | grep -o '"selinuxLabel": "[^"]*"' | cut -d'"' -f4`)
		return strings.TrimSpace(out)
	}
	plain := pod("run", "plain", "")
	drawn, err := labels.Parse(spec(plain))
	if err != nil || drawn.Type != policy.ContainerType {
		t.Fatalf("CRI's label is %v, %v, want type %s", drawn, err, policy.ContainerType)
	}
	l.wantPod(t, plain, drawn.Range.String())
	pod("container", plain, "other", "")
	l.foreignLevels(t, plain, drawn.Range.String())
	l.wantPod(t, plain, drawn.Range.String())
	pod("remove", plain)
	given := pod("run", "given", "s0:c800,c801")
	l.wantPod(t, given, "s0:c800,c801")
	pod("remove", given)
	privileged := pod("privileged", "privileged")
	if got := spec(privileged); got != "" {
		t.Logf("CRI's label of a privileged pod is %s", got)
	}
	l.wantPod(t, privileged, "")
	pod("remove", privileged)
	l.users(t, pod)
	unexpected(t, l.machine)
	l.nothingLeft(t, plain, "/var/lib/cloister")
}

// foreignLevels has containers of a pod ask for the level of another engine's file, and mount that
// file as /etc/hosts, which the shim would copy into the guest. Neither starts: a pod has one
// level, and at the pod's the file is another's.
func (l *lab) foreignLevels(t *testing.T, id, own string) {
	t.Helper()
	const other, file = "s0:c900,c901", "/srv/foreign"
	l.sh(t, "echo secret >"+file+"; chcon -t "+policy.ContainerFileType+" -l "+other+" "+file)
	for level, want := range map[string]string{other: "seLinuxOptions.level", own: "another sandbox's"} {
		answer, err := l.run(wire.Run{Argv: []string{
			"/lab/bin/pods", "unix:///run/containerd2/containerd.sock", "container", id, "level-" + strconv.Itoa(len(want)), level, file,
		}, Env: labEnv(), Seconds: 200})
		if err != nil || answer.Exit == 0 || !strings.Contains(answer.Out, want) {
			t.Errorf("a container at %s whose /etc/hosts is a file at %s: %v, exit %d: %s: want a refusal with %q",
				level, other, err, answer.Exit, answer.Out, want)
		}
		t.Logf("at %s: %s", level, strings.TrimSpace(answer.Out))
	}
}

// users has a pod with a user namespace: its root file system is an overlay of id-mapped layers
// with the sandbox's label, its volume an id-mapped mount with a label that fits.
func (l *lab) users(t *testing.T, pod func(...string) string) {
	t.Helper()
	const level = "s0:c810,c811"
	l.sh(t, "mkdir -p /srv/users; chcon -t "+policy.RootfsType+" -l "+level+" /srv/users")
	id, seen, _ := strings.Cut(pod("users", "users", level, "/srv/users"), "\n")
	if seen != "0 65536 65536 0 0 0 7" {
		t.Errorf("a container with a user namespace has seen %q", seen)
	}
	l.wantPod(t, id, level)
	if got := strings.TrimSpace(l.sh(t, "stat -c '%u %C' /srv/users/made")); got != "7 system_u:object_r:"+policy.RootfsType+":"+level {
		t.Errorf("what it has made is %s", got)
	}
	pod("remove", id)
}

// wantPod looks at the pod's processes: QEMU and file server in their domains, at one level, which
// is the one given or a pair.
func (l *lab) wantPod(t *testing.T, id, level string) {
	t.Helper()
	text, pid := l.level(t, id)
	label, err := labels.Parse(text)
	if err != nil || label.Type != policy.QEMUType || level != "" && label.Range.String() != level {
		t.Errorf("QEMU of pod %s runs as %s, %v, want %s", id, text, err, process(policy.QEMUType, level))
	}
	one, _ := label.Range.Single()
	if _, pair := one.Pair(); !pair {
		t.Errorf("QEMU of pod %s is at %v, want a pair", id, label.Range)
	}
	server := strings.TrimSpace(l.sh(t, "ps -o label= --ppid $(ps -o ppid= "+strconv.Itoa(pid)+") | grep "+policy.VirtiofsdType))
	if server != process(policy.VirtiofsdType, label.Range.String()) {
		t.Errorf("file server of pod %s runs as %s, QEMU as %s", id, server, text)
	}
	t.Logf("pod %.12s: %s, %s", id, text, server)
}
