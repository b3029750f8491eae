// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// upgrade has the next version of the packages replace the policy module under a running sandbox
// and a plain container: their processes and files keep their labels, an exec answers in both, and
// a sandbox that starts then has a level of its own.
func (l *lab) upgrade(t *testing.T, e *engine, id string) {
	t.Helper()
	l.runPlain(t, byRunc)
	// The first sandbox has asked for a template, whose builder makes files and removes them before
	// it ends.
	l.sh(t, "for i in $(seq 300); do pgrep -f '^cloister-template' >/dev/null || "+
		"[ -n \"$(ls /run/cloister/cloister-templates 2>/dev/null)\" ] || exit 0; sleep 0.5; done; exit 1")
	before := l.labelled(t, e, id)
	l.seen = nil
	l.policyOf(t, "/lab/bin/cloister-next", 0, "not of this version", "status")
	l.dpkg(t, append([]string{"--install"}, debs(packagesNext)...)...)
	l.policy(t, 0, "installed and current", "status")
	l.policy(t, 0, "", "test")
	l.sh(t, "printf system_u:object_r:"+nextType+":s0 >/sys/fs/selinux/context")
	if diff := cmp.Diff(before, l.labelled(t, e, id)); diff != "" {
		t.Errorf("labels before (-) and after (+) the upgrade of the policy:\n%s", diff)
	}
	const use = "echo more >/written && grep more /written && ls -l /bin/busybox && [ $(hostname) ]"
	for _, id := range []string{id, byRunc} {
		if out, err := e.ctr("task", "exec", "--exec-id", "x", id, "sh", "-c", use); err != nil {
			t.Errorf("an exec in %s after the upgrade: %v: %s", id, err, out)
		}
	}
	const later = "later"
	if err := e.run(later); err != nil {
		t.Fatal(err)
	}
	old, _ := l.level(t, id)
	if level, _ := l.level(t, later); level == old {
		t.Errorf("%s and %s both run as %s", id, later, old)
	}
	for _, id := range []string{later, byRunc} {
		if err := e.remove(id); err != nil {
			t.Error(err)
		}
		l.nothingLeft(t, id, "/var/lib/cloister")
	}
	unexpected(t, l.machine)
}

// labelled are the labels of all processes of sandboxes, and of all files that cloister has: those
// of a sandbox are in its shim's mount namespace.
func (l *lab) labelled(t *testing.T, e *engine, id string) []string {
	t.Helper()
	list, err := e.processes("cloister_")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range list {
		all = append(all, r.label+" "+r.command)
	}
	_, pid := l.level(t, id)
	files := l.sh(t, "shim=$(ps -o ppid= "+strconv.Itoa(pid)+")\n"+
		`nsenter -t $shim -m find /run/cloister /var/lib/cloister /usr/lib/qemu/virtiofsd -exec stat -c '%C %n' {} + | sort -k 2`)
	return append(all, strings.Split(files, "\n")...)
}
