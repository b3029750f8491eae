// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"testing"

	"cloister/sandbox/guestapi"
	"cloister/tests/images"
)

// way is an attack by the root of a guest that has not broken out of it. What stops it is how the
// host opens, mounts and bounds, whatever the policy says: so there is no denial to look for, and
// the attack itself says whether it has got anything.
type way struct {
	name string
	// attack gives what the guest has got, "" for nothing. control does the same on what belongs to
	// the guest, and gives "" if that works.
	attack, control func(*testing.T, *guestRoot) string
}

// guestRoot is a sandbox with a volume, and a file of it that is copied to /etc/hosts.
type guestRoot struct {
	l    *lab
	e    *engine
	qemu int
}

const (
	wayVolume = "/srv/way"
	waySecret = "/usr/lab/way-secret" // which the shim's domain may read
)

func ways() []way {
	return []way{
		{"a copied file becomes a link to the host's", copiedLink, copiedPlain},
		{"names at the top of the share", shareNames, volumeNames},
		{"QEMU's root becomes the host's", hostsRoot, ownRoot},
		{"the state folder's file system is filled", fillState, fillVolume},
	}
}

// fromGuest runs the ways as rows of the matrix.
func fromGuest(t *testing.T, l *lab) []result {
	t.Helper()
	g := &guestRoot{l: l, e: l.engine(t)}
	l.sh(t, fmt.Sprintf("mkdir -p %[1]s; echo good >%[1]s/hosts; ln -f %[1]s/hosts %[1]s/first; echo secret of the host >%[2]s",
		wayVolume, waySecret))
	config := l.config(t, "ways", "", "", "[workloads]\nannotations = [\"io.cloister.labels.mounts\"]\n[debug]\nshell = \"/bin/busybox\"\n")
	err := g.e.run("ways", "--runtime-config-path", config, "--annotation", "io.cloister.labels.mounts=/data=private",
		"--mount", "type=bind,src="+wayVolume+",dst=/data,options=rbind", "--mount",
		"type=bind,src="+wayVolume+"/hosts,dst=/etc/hosts,options=rbind")
	if err != nil {
		t.Fatal(err)
	}
	_, g.qemu = l.level(t, "ways")
	var results []result
	for _, w := range ways() {
		r := result{attempt: attempt{name: w.name, from: "guest", tag: own}, controls: 1}
		if trouble := w.control(t, g); trouble == "" {
			r.held++
		} else {
			r.notes = append(r.notes, "control: "+trouble)
		}
		r.trouble = w.attack(t, g)
		r.denied = r.trouble == ""
		results = append(results, r)
	}
	if err := g.e.remove("ways"); err != nil {
		t.Error(err)
	}
	l.nothingLeft(t, "ways", "/var/lib/cloister")
	return results
}

// in runs a script in the container, and root one in a shell of the guest's root. Both give what it
// prints.
func (g *guestRoot) in(t *testing.T, script string) string {
	t.Helper()
	out, err := g.e.ctr("task", "exec", "--exec-id", "x", "ways", "sh", "-c", script)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(out)
}

func (g *guestRoot) root(t *testing.T, script string) string {
	t.Helper()
	return strings.TrimSpace(g.l.sh(t, "cloister debug ways sh -c '"+script+"' 2>&1"))
}

// folders is the start of a script for each folder of the share that is no volume and no root file
// system. What root can make writable in the guest it has made writable.
const folders = "mount -o remount,rw " + guestapi.Share + " 2>/dev/null; for d in $(find " + guestapi.Share +
	" -xdev -maxdepth 3 -type d); do [ ! -e $d/bin/busybox ] && [ ! -e $d/first ] || continue; "

// written changes the file that the host may watch until /etc/hosts has a text, for ten seconds.
func written(text string) string {
	return "for i in 1 2 3 4 5 6 7 8 9 10; do : >>/data/first; grep -q \"" + text +
		"\" /etc/hosts && echo has it && break; sleep 1; done; true"
}

func copiedPlain(t *testing.T, g *guestRoot) string {
	t.Helper()
	if got := g.in(t, "echo plain >/data/new; mv /data/new /data/hosts; "+written("plain")); got != "has it" {
		return "a plain file in the place of the copied one is not followed"
	}
	return ""
}

func copiedLink(t *testing.T, g *guestRoot) string {
	t.Helper()
	if g.in(t, "ln -s "+waySecret+" /data/new; mv /data/new /data/hosts; "+written("secret")) != "" {
		return "the guest has the host's file"
	}
	return ""
}

func volumeNames(t *testing.T, g *guestRoot) string {
	t.Helper()
	return g.in(t, "cd /data && touch x && mkdir y && ln -s / z && mkfifo p && mv x w && rm -r w y z p")
}

func shareNames(t *testing.T, g *guestRoot) string {
	t.Helper()
	out := g.root(t,
		folders+"echo tried >&2; touch $d/x && echo file in $d; mkdir $d/y && echo folder in $d; ln -s / $d/z && echo link in $d; "+
			"for e in $d/*; do [ ! -e $e ] || ! mv $e $d/moved || echo moved $e; done; done")
	return got(out)
}

// got leaves out of a script's output what the kernel refused, which must be there.
func got(out string) string {
	refused := 0
	var done []string
	for line := range strings.Lines(out) {
		switch line = strings.TrimSpace(line); {
		case strings.HasSuffix(line, "Read-only file system"), strings.HasSuffix(line, "Device or resource busy"):
			refused++
		case line != "tried":
			done = append(done, line)
		}
	}
	if refused == 0 {
		done = append(done, "nothing was refused")
	}
	return strings.Join(done, "; ")
}

func ownRoot(t *testing.T, g *guestRoot) string {
	t.Helper()
	return strings.TrimSpace(g.l.sh(t,
		fmt.Sprintf("ls /proc/%d/root/bin/busybox >/dev/null 2>&1 || echo QEMU shows no files of the container", g.qemu)))
}

// hostsRoot puts links in the place of root file systems, has a second container leave, and looks
// at what is QEMU's root then.
func hostsRoot(t *testing.T, g *guestRoot) string {
	t.Helper()
	join := []string{
		"run", "--detach", "--runtime", "io.containerd.cloister.v2", "--with-ns",
		fmt.Sprintf("network:/proc/%d/ns/net", g.qemu),
	}
	if _, err := g.e.ctr(append(join, images.BusyboxName, "leaver", "sleep", "600")...); err != nil {
		t.Fatal(err)
	}
	g.root(t, "cd "+guestapi.Share+"/"+guestapi.ShareContainers+
		"; for c in *; do mv $c moved; mkdir $c; ln -s / $c/rootfs; done; mount | grep -c nothing; true")
	if err := g.e.remove("leaver"); err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(g.l.sh(t,
		fmt.Sprintf("for f in /lab/guest /etc/debian_version /usr/lib/qemu; do [ ! -e /proc/%d/root$f ] || echo $f of the "+
			"host is in QEMU root; done", g.qemu)))
}

func fillVolume(t *testing.T, g *guestRoot) string {
	t.Helper()
	return g.in(t, "dd if=/dev/zero of=/data/fill bs=1M count=8 2>/dev/null && rm /data/fill || echo no room in a volume")
}

func fillState(t *testing.T, g *guestRoot) string {
	t.Helper()
	before := g.l.sh(t, "busybox df -k /run/cloister | tail -n 1")
	g.root(t, folders+"dd if=/dev/zero of=$d/fill bs=1M count=64; done; true")
	var used, after int
	var name string
	if _, err := fmt.Sscan(before, &name, new(int), &used); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(g.l.sh(t, "busybox df -k /run/cloister | tail -n 1"), &name, new(int), &after); err != nil {
		t.Fatal(err)
	}
	const most = 8 << 10 // logs, which are bounded
	if after-used > most {
		return fmt.Sprintf("%d KiB of the file system of /run/cloister", after-used)
	}
	return ""
}
