// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"cloister/labels/policy"
)

// classProcess runs plain containers of the built shim, by each OCI runtime: the label of process 1
// and of each exec, of root file system, volumes, terminals and keyrings; what a label that is read
// back wrong and a level that clashes do; and that all of it is given back.
func classProcess(t *testing.T, l *lab) {
	t.Helper()
	l.engine(t)
	// The shim finds what is wrong, whichever runtime it has: each fault has one of the two.
	faults := map[string][]plainFault{"crun": {readsBackWrong(), clashes()}, "runc": {becomesPermissive()}}
	for _, name := range []string{"crun", "runc"} {
		l.part(t, name, func(t *testing.T) {
			l.useful(t, "one-"+name)
			l.waits(t, "waits-"+name)
			for _, f := range faults[name] {
				l.plainFault(t, f, name)
			}
		})
	}
	l.disabled(t)
	l.twoPlain(t)
}

// disable is label=disable, as Podman passes it on.
const disable = "io.podman.annotations.label=disable"

// disabled is a container without a label, which the shim refuses.
func (l *lab) disabled(t *testing.T) {
	t.Helper()
	const id = "disabled-crun"
	err := l.made.run(id, "--runtime-config-path", l.plainConfig(t, id), "--annotation", disable)
	if err == nil || !strings.Contains(err.Error(), "label=disable: SELinux is enforcing") {
		t.Errorf("label=disable: %v, want a refusal that says so", err)
	}
	l.sh(t, "ctr container delete "+id)
	l.nothingLeft(t, id, "/var/lib/cloister")
}

// useful starts a container, looks at its labels from inside and outside, uses it as people do, and
// removes it.
func (l *lab) useful(t *testing.T, id string) {
	t.Helper()
	l.seen = nil
	c := l.runPlain(t, id)
	if c.label.Type != policy.ContainerType {
		t.Errorf("process 1 runs as %s, want type %s", c.label, policy.ContainerType)
	}
	own := object(policy.ContainerFileType, c.level())
	l.wantFileLabels(t, map[string]string{
		"/srv/plain/" + id + "/volume": own, "/srv/plain/" + id + "/volume/file": own,
		"/srv/plain/all/file": object(policy.RootfsType, "s0"), "/srv/plain/ref/file": object(policy.ContentType, "s0"),
		fmt.Sprintf("/proc/%d/root/bin/busybox", c.pid): own, fmt.Sprintf("/proc/%d/root/dev/null", c.pid): own,
		fmt.Sprintf("/proc/%d/root/dev/pts/ptmx", c.pid): own, fmt.Sprintf("/proc/%d/root/dev/shm", c.pid): own,
		fmt.Sprintf("/proc/%d/root/run", c.pid): own,
	})
	l.seen = nil
	l.wantAll(t, id, true, []string{
		"[ $(cat /proc/self/attr/current) = " + c.label.String() + " ]",
		"[ $(cat /proc/1/attr/current) = " + c.label.String() + " ] && cat /proc/1/status >/dev/null",
		"echo x >/volume/new && cat /volume/file && echo x >/all/new && cat /ref/file && mkdir /made && echo x >/made/x && rm -r /made",
		"echo x >/dev/null && head -c 4 /dev/urandom >/dev/null",
		"echo x >/proc/1/fd/1", // as images log whose log file is a link to /dev/stdout
		"cat /proc/meminfo /proc/sys/net/core/somaxconn /proc/net/dev && df && ls -R /sys/class",
		"mkfifo /fifo && (echo x >/fifo & cat /fifo) && ln -s fifo /link && chown 7:7 /fifo && chmod 600 /fifo && mv /fifo /other",
	})
	unexpected(t, l.machine)
	l.wantAll(t, id, false, []string{
		"echo x >/ref/new", "echo x >/proc/self/attr/exec", "mknod /node c 1 3", "mount -t tmpfs none /mnt",
	})
	l.seen = nil
	told := l.sh(t, "cloister ps; cloister labels")
	if !strings.Contains(told, id) || !strings.Contains(told, c.level()) {
		t.Errorf("cloister ps and labels do not show %s at %s:\n%s", id, c.level(), told)
	}
	if err := l.made.remove(id); err != nil {
		t.Error(err)
	}
	unexpected(t, l.machine)
	l.nothingLeft(t, id, "/var/lib/cloister")
	l.wantFileLabels(t, map[string]string{
		"/srv/plain/" + id + "/volume": object("usr_t", "s0"), "/srv/plain/" + id + "/volume/file": object("usr_t", "s0"),
		"/srv/plain/" + id + "/volume/new": object("usr_t", "s0"), "/srv/plain/all/file": object(policy.RootfsType, "s0"),
	})
}

// wantAll runs scripts in a container, in one exec: each has to work, or each has to fail.
func (l *lab) wantAll(t *testing.T, id string, works bool, scripts []string) {
	t.Helper()
	not := map[bool]string{false: "!"}[works]
	var text strings.Builder
	for i, script := range scripts {
		fmt.Fprintf(&text, "%s (%s) >/dev/null 2>&1 || echo wrong %d\n", not, script, i)
	}
	out, err := l.made.ctr("task", "exec", "--exec-id", "x", id, "sh", "-c", text.String()+"echo done")
	if err != nil || !strings.HasSuffix(out, "done\n") {
		t.Errorf("%s: the scripts did not end: %v: %s", id, err, out)
	}
	for i, script := range scripts {
		if strings.Contains(out, fmt.Sprintf("wrong %d\n", i)) {
			t.Errorf("%s: %s: want it to work: %t", id, script, works)
		}
	}
}

// wantFileLabels looks at files of the machine.
func (l *lab) wantFileLabels(t *testing.T, want map[string]string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(want))
	got := strings.Fields(l.sh(t, "stat -c %C "+strings.Join(names, " ")))
	if len(got) != len(names) {
		t.Fatalf("labels of %q: %q", names, got)
	}
	for i, name := range names {
		if got[i] != want[name] {
			t.Errorf("%s is labelled %s, want %s", name, got[i], want[name])
		}
	}
}

// containerMade is the moment at which the OCI runtime has made the container, and its process 1
// waits. Nothing of it has been verified then.
const containerMade = "container ID made"

// waiting finds the process 1 that waits, in the script of a held start.
const waiting = `for n in $(seq 100); do init=$(pgrep -P $shim | head -n 1); [ -n "$init" ] && break; sleep 0.1; done
`

// waits looks at process 1 while the shim has not verified it: it runs under the shim's label, with
// the container's pending. Its engine asks for no label, and the configuration has it labelled.
func (l *lab) waits(t *testing.T, id string) {
	t.Helper()
	l.seen = nil
	out, err := l.held(t, id, containerMade, l.plainConfig(t, id, "engine_disable = \"confine\"\n"), waiting+
		`cat /proc/$init/attr/current >/run/lab/held/$id.current; cat /proc/$init/attr/exec >/run/lab/held/$id.exec`,
		"--annotation", disable)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := l.plainOf(t, id)
	read := func(name string) string {
		return strings.Trim(l.sh(t, "cat /run/lab/held/"+id+"."+name), "\x00\n")
	}
	if got := read("exec"); got != c.label.String() {
		t.Errorf("the waiting process has %q pending, and runs as %s", got, c.label)
	}
	if got := read("current"); !strings.Contains(got, policy.ShimType) {
		t.Errorf("the waiting process runs as %q, want %s", got, policy.ShimType)
	}
	if err := l.made.remove(id); err != nil {
		t.Error(err)
	}
	unexpected(t, l.machine)
	l.nothingLeft(t, id, "/var/lib/cloister")
}

// plainFault is what goes wrong while process 1 waits.
type plainFault struct {
	name, spoil, mend string
	says              string
}

func readsBackWrong() plainFault {
	return plainFault{
		name: "reads-back-wrong", says: "wrong label",
		// Only on a host that has just been permissive can anybody come between.
		spoil: "printf system_u:system_r:" + policy.ContainerType +
			":s0:c1022,c1023 >/run/lab/wrong; echo 0 >/sys/fs/selinux/enforce; " +
			"nsenter -t $shim -m busybox mount --bind /run/lab/wrong /proc/$init/task/$init/attr/exec; echo 1 >/sys/fs/selinux/enforce",
	}
}

func becomesPermissive() plainFault {
	return plainFault{
		name: "permissive", says: "SELinux is permissive", spoil: "echo 0 >/sys/fs/selinux/enforce",
		mend: "echo 1 >/sys/fs/selinux/enforce",
	}
}

// clashes is another process that comes up at the container's pair.
func clashes() plainFault {
	return plainFault{
		name: "clash", says: "is carried by pid", mend: "pkill -f [l]ab-clash",
		spoil: `level=$(tr -d '\0' </proc/$init/attr/exec | cut -d: -f4-)
runcon system_u:system_r:` + policy.ContainerType + `:$level /lab/probe/probe-container hold lab-clash 4002 >/dev/null 2>&1 &
for n in $(seq 100); do ps -eo label= | grep -q "` + policy.ContainerType + `:$level\$" && break; sleep 0.2; done`,
	}
}

// plainFault refuses a container for the fault, and leaves nothing of it.
func (l *lab) plainFault(t *testing.T, f plainFault, runtime string) {
	t.Helper()
	id := f.name + "-" + runtime
	out, err := l.held(t, id, containerMade, l.plainConfig(t, id), waiting+f.spoil, l.plainVolumes(t, id)...)
	if f.mend != "" {
		l.sh(t, f.mend)
	}
	if err == nil || !strings.Contains(out, f.says) {
		t.Errorf("%s: want a refusal that says %q: %s", id, f.says, out)
	}
	if err == nil {
		_ = l.made.remove(id)
	} else {
		l.sh(t, "ctr container delete "+id)
	}
	l.nothingLeft(t, id, "/var/lib/cloister")
	l.wantFileLabels(t, map[string]string{"/srv/plain/" + id + "/volume/file": object("usr_t", "s0")})
}

// twoPlain has two containers, by two OCI runtimes, at different pairs: they share a volume on
// purpose, and neither is given the other's.
func (l *lab) twoPlain(t *testing.T) {
	t.Helper()
	one, two := l.runPlain(t, byCrun), l.runPlain(t, byRunc)
	if one.level() == two.level() {
		t.Errorf("both containers are at %s", one.level())
	}
	for _, c := range []plainContainer{one, two} {
		script := "echo " + c.id + " >>/all/file && grep " + c.id + " /all/file"
		if _, err := l.made.ctr("task", "exec", "--exec-id", "x", c.id, "sh", "-c", script); err != nil {
			t.Error(err)
		}
	}
	// A new file is at its maker's level, unless the policy gives it its folder's (default_range).
	if _, err := l.made.ctr("task", "exec", "--exec-id", "late", one.id, "sh", "-c", "echo late >/all/late"); err != nil {
		t.Error(err)
	}
	_, err := l.made.ctr("task", "exec", "--exec-id", "late", two.id, "cat", "/all/late")
	if shares := os.Getenv("POLICY") == fedoraPolicy; (err == nil) != shares {
		t.Errorf("another's new file in a shared volume: %v, want it to be read: %t", err, shares)
	}
	l.seen = nil
	const thief = "thief-crun"
	err = l.made.run(thief, "--runtime-config-path", l.plainConfig(t, thief), "--annotation", "io.cloister.labels.mounts=/volume=private",
		"--mount", "type=bind,src=/srv/plain/"+byRunc+"/volume,dst=/volume,options=rbind")
	if err == nil || !strings.Contains(err.Error(), byRunc) {
		t.Errorf("a container with another one's private volume: %v, want a refusal that names %s", err, byRunc)
	}
	l.wantFileLabels(t, map[string]string{"/srv/plain/" + byRunc + "/volume/file": object(policy.ContainerFileType, two.level())})
	l.sh(t, "ctr container delete "+thief)
	l.nothingLeft(t, thief, "/var/lib/cloister")
	for _, id := range plains() {
		if err := l.made.remove(id); err != nil {
			t.Error(err)
		}
		l.nothingLeft(t, id, "/var/lib/cloister")
	}
}
