// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// fault is a host on which no guest may start.
type fault struct {
	name string
	// step is where the shim is held while the host is spoilt; empty spoils it before the start.
	step         string
	spoil, mend  string // of the machine's shell
	load         string // a policy to be loaded before the start; the lab's own is loaded after it
	label, rest  string // of the configuration
	top          string
	flags        []string
	says, remedy string
}

// root is where a fault's registry and journal are.
func (f fault) root() string { return "/var/lib/spoilt-" + f.name }

const (
	planned  = "plan reached"
	launched = "process qemu written"
)

// faultyHosts are the hosts, the changes under a start, and the files that cannot be labelled.
func faultyHosts() []fault {
	const level = "s0:c1022,c1023"
	garbage := func(dir, name string) string {
		return "mkdir -p $root/" + dir + "; echo garbage >$root/" + dir + "/" + name
	}
	unreadable := func(dir string) string { return "mkdir -p $root/" + dir + "; chcon -t shadow_t $root/" + dir }
	volume := func(sharing string) []string {
		return []string{
			"--mount", "type=bind,src=/srv/fault,dst=/data,options=rbind", "--annotation",
			"io.cloister.labels.mounts=/data=" + sharing,
		}
	}
	const allowed = "[workloads]\nannotations = [\"io.cloister.labels.mounts\"]\n"
	const tree = "mkdir -p /srv/fault; cd /srv/fault; for n in a b c d e f; do echo $n >$n; done; chcon -R -t usr_t -l s0 /srv/fault"
	return []fault{
		{
			name: "permissive", spoil: "echo 0 >/sys/fs/selinux/enforce", mend: "echo 1 >/sys/fs/selinux/enforce",
			says: "SELinux is permissive", remedy: "setenforce 1",
		},
		{
			name: "permissive-after-plan", step: planned, spoil: "echo 0 >/sys/fs/selinux/enforce", mend: "echo 1 >/sys/fs/selinux/enforce",
			says: "SELinux is permissive", remedy: "setenforce 1",
		},
		{
			name: "permissive-before-cont", step: launched, spoil: "echo 0 >/sys/fs/selinux/enforce",
			mend: "echo 1 >/sys/fs/selinux/enforce",
			says: "SELinux is permissive", remedy: "setenforce 1",
		},
		{
			name: "reads-back-wrong", step: launched, says: "wrong label", remedy: "cloister check",
			// only so can anybody come between
			spoil: "printf system_u:system_r:" + policy.QEMUType + ":" + level + " >/run/lab/wrong\necho 0 >/sys/fs/selinux/enforce; " +
				"nsenter -t $shim -m busybox mount --bind /run/lab/wrong /proc/$qemu/task/$qemu/attr/current; echo 1 " +
				">/sys/fs/selinux/enforce",
		},
		{
			name: "entrance", spoil: "chcon -t lib_t /usr/lib/qemu/virtiofsd",
			mend: "chcon -t " + policy.VirtiofsdExecType + " /usr/lib/qemu/virtiofsd",
			says: "virtiofsd", remedy: "restorecon",
		},
		{name: "without-module", load: "base", says: "no domain for sandboxes works", remedy: "cloister policy install"},
		{name: "type-missing", label: "base = \"system_u:system_r:no_such_t:s0\"\n", says: "no_such_t", remedy: "seinfo -t"},
		{
			name: "no-labels-on-state", top: "state = \"/run/nolabels/cloister\"\n",
			spoil: "mkdir -p /run/nolabels; busybox mount -t tmpfs -o mode=0755,context=system_u:object_r:tmp_t:s0 none /run/nolabels",
			mend:  "busybox umount /run/nolabels", says: "file system takes no labels", remedy: "context=",
		},
		{
			name: "registry-corrupt", label: "mode = \"static\"\nlabel = \"system_u:system_r:" + policy.QEMUType + ":" + level + "\"\n",
			spoil: garbage("mcs/$(cat /proc/sys/kernel/random/boot_id)/pairs", "c1022,c1023"),
			says:  "corrupt registry entry", remedy: "remove the file",
		},
		{name: "registry-unreadable", spoil: unreadable("mcs"), says: "registry of levels", remedy: "restorecon"},
		{
			name: "journal-corrupt", spoil: garbage("relabel/sandboxes/default%2Fdead", "head.json"),
			says: "head.json", remedy: "cloister labels",
		},
		{name: "journal-unreadable", spoil: unreadable("relabel"), says: "relabel journal", remedy: "restorecon"},
		{
			name: "half-relabelled", spoil: tree + "; chattr +i c", mend: "chattr -i /srv/fault/c", flags: volume("private"), rest: allowed,
			says: "operation not permitted", remedy: "chattr -i",
		},
		{
			name: "label-write-denied", spoil: tree + "; chcon -t shadow_t d",
			mend: "chcon -t usr_t /srv/fault/d", flags: volume("private"), rest: allowed,
			says: "permission denied", remedy: "restorecon",
		},
		{
			name:  "no-labels-on-volume",
			spoil: "mkdir -p /srv/fault; busybox mount -t tmpfs -o context=system_u:object_r:tmp_t:s0 none /srv/fault",
			mend:  "busybox umount /srv/fault", flags: volume("private"), rest: allowed,
			says: "takes no labels", remedy: "context=",
		},
	}
}

// faults start a sandbox on each: the error says why and what to do, no guest has run an
// instruction, and nothing is left.
func faults(t *testing.T, l *lab) {
	t.Helper()
	l.engine(t)
	for _, f := range faultyHosts() {
		l.part(t, f.name, func(t *testing.T) { f.run(t, l) })
	}
}

func (f fault) run(t *testing.T, l *lab) {
	t.Helper()
	id, begin := "fault-"+f.name, time.Now()
	config := l.config(t, id, f.top+"root = \""+f.root()+"\"\n", f.label, f.rest)
	l.sh(t, "mkdir -p "+f.root())
	spoil, step := "root="+f.root()+"; "+f.spoil, f.step
	if f.load != "" {
		l.load(t, f.load)
	}
	if step == "" {
		l.sh(t, spoil)
		step, spoil = "plan reached", ""
	}
	out, err := l.held(t, id, step, config, spoil, f.flags...)
	if f.mend != "" {
		l.sh(t, f.mend)
	}
	if f.load != "" {
		l.load(t, "policy")
	}
	if err == nil || !strings.Contains(out, f.says) || !strings.Contains(out, f.remedy) {
		t.Errorf("want a refusal that says %q and %q: %s", f.says, f.remedy, out)
	}
	// The step is reached once the agent has said hello, so by a guest that ran.
	if steps := l.steps(t, id); strings.Contains(steps, "kernel reached") {
		t.Errorf("the guest has run: %s", steps)
	}
	t.Logf("%.1f s: %s", time.Since(begin).Seconds(), strings.TrimSpace(out))
	if err == nil {
		_ = l.made.remove(id)
	} else {
		l.sh(t, "ctr container delete "+id)
	}
	l.nothingLeft(t, id, f.root())
	if len(f.flags) > 0 {
		if wrong := strings.TrimSpace(l.sh(t, "[ ! -e /srv/fault/a ] || ls -Z /srv/fault | grep -v ':usr_t:s0 ' || true")); wrong != "" {
			t.Errorf("labels were not given back:\n%s", wrong)
		}
		l.sh(t, "rm -rf /srv/fault/*")
	}
}

// load loads a policy of the second disk.
func (l *lab) load(t *testing.T, name string) {
	t.Helper()
	if _, err := l.ask(wire.Request{Policy: &wire.Policy{Load: "/lab/policy/" + name}}, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
}
