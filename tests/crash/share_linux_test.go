// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// A workload that has broken out of its container is root of its guest. A shell of `cloister debug`
// stands for it here.

// guestShare is where the guest has what the host shows it.
const guestShare = guestapi.Share

// guestContainers is where it has their folders.
const guestContainers = guestShare + "/" + guestapi.ShareContainers

// foldersOf are functions of a guest's script: folders lists those of the share that are the host's
// own, and not a volume (which has a file of-volume) or a root file system. What root can make
// writable in the guest it has made writable.
const foldersOf = `
mount -o remount,rw ` + guestShare + `
folders() {
	for d in $(find ` + guestShare + ` -xdev -maxdepth 3 -type d | sort -r); do
		[ -e $d/bin/busybox ] || [ -e $d/of-volume ] || echo $d
	done
}
`

// outlaw is a stage with two containers in one guest: first has a folder and a file as volumes,
// second a folder.
type outlaw struct {
	*stage
	machine, shim int
	state         string // the sandbox's folder
}

// TestGuestRootAndTheShare has the guest's root attack what the host shows the guest: names, the
// root of the machine's process, and space.
func TestGuestRootAndTheShare(t *testing.T) {
	s := newStageWith(t, host.Options{Cloister: "[debug]\nshell = \"" + testenv.NeedBusybox(t) + "\"\n[timeouts]\nboot = \"5m\"\n"})
	// The state folder's file system is as small as a /run may be that is shared with the host's
	// services.
	s.Place.Run(t, "sh", "-c", "mkdir -p /run/cloister && mount -t tmpfs -o size=64m,nr_inodes=3000,mode=711 state /run/cloister")
	before := s.Look(t)
	s.Start(t, "first", s.options(t, "first"))
	o := outlaw{
		stage: s, machine: s.Marked(t, "first", "qemu-system"), shim: s.Shim(t, "first"),
		state: filepath.Join("/run/cloister", s.Namespace, "first"),
	}
	o.join(t, "second")
	t.Run("names", o.names)
	t.Run("links in the way of a container", func(t *testing.T) { o.raced(t, linksInTheWay) })
	t.Run("folders of a container that move", func(t *testing.T) { o.raced(t, foldersMoved) })
	t.Run("root of the machine's process", o.root)
	t.Run("space", o.space)
	s.Remove(t, "second")
	s.Remove(t, "first")
	s.NothingLeft(t, before)
}

// options are those of a container with a folder and a file of the host's.
func (s *stage) options(t *testing.T, id string) []string {
	t.Helper()
	dir := filepath.Join(s.Dir, "volumes", id)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "of-volume"), []byte(id+"\n"), 0o644))
	return []string{
		"--mount", "type=bind,src=" + dir + ",dst=/volume,options=rbind:rw",
		"--mount", "type=bind,src=" + dir + "/of-volume,dst=/one,options=rbind:rw",
		"--mount", "type=bind,src=" + dir + "/of-volume,dst=/etc/hosts,options=rbind:rw",
	}
}

// run gives the arguments that put a container into the guest.
func (o outlaw) args(t *testing.T, id string) []string {
	t.Helper()
	options := append([]string{"--detach", "--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", o.machine)}, o.options(t, id)...)
	return o.Args(id, options, "sleep", "1000")
}

// join puts a container into the guest.
func (o outlaw) join(t *testing.T, id string) {
	t.Helper()
	t.Cleanup(func() { o.Remove(t, id) })
	o.Must(t, o.args(t, id)...)
}

// debug runs a shell of the guest's root and gives its lines.
func (o outlaw) debug(ctx context.Context, stdin io.Reader) *bufio.Scanner {
	cmd := o.Place.Command(ctx, "cloister", "debug", "first")
	cmd.Env, cmd.Stdin = o.Env, stdin
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	go func() { _ = writer.CloseWithError(cmd.Run()) }()
	return bufio.NewScanner(reader)
}

// guestRoot runs a script of the guest's root to its end and gives its lines.
func (o outlaw) guestRoot(t *testing.T, script string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.Patience)
	defer cancel()
	var lines []string
	out := o.debug(ctx, strings.NewReader(script))
	for out.Scan() {
		lines = append(lines, out.Text())
	}
	if err := ctx.Err(); err != nil {
		t.Fatalf("%v; so far:\n%s", err, strings.Join(lines, "\n"))
	}
	return lines
}

// names wants every change of the share's own folders refused, whatever the guest has made of its
// mounts.
func (o outlaw) names(t *testing.T) {
	const script = foldersOf + `
try() { what="$1"; shift; out=$("$@" 2>&1) && echo "$what: done" || echo "$what: ${out##*: }"; }
for d in $(folders); do
	echo "in $d"
	try "file in $d" touch $d/x
	try "folder in $d" mkdir $d/y
	try "link in $d" ln -s / $d/z
	try "FIFO in $d" mkfifo $d/p
	try "device in $d" mknod $d/n c 1 3
	try "mode of $d" chmod 777 $d
	try "owner of $d" chown 7 $d
	try "time of $d" touch -d '2001-01-01 00:00' $d
	rm -rf $d/x $d/y $d/z $d/p $d/n
	for e in $d/*; do
		[ -e $e ] || [ -L $e ] || continue
		try "moved entry $e" mv $e $e.moved
		[ ! -e $e.moved ] || mv $e.moved $e
		[ -d $e ] || try "hard link to entry $e" ln $e $d/h
		[ -d $e ] || try "removed entry $e" rm $e
		[ ! -d $e ] || [ -e $e/of-volume ] || [ -e $e/bin ] || try "removed entry $e" rmdir $e
	done
done`
	before := o.tree(t)
	lines := o.guestRoot(t, script)
	folders := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "in ") {
			folders++
			continue
		}
		// What is mounted on may be said to be in use before anybody asks the host.
		busy := strings.Contains(line, " entry ") && strings.HasSuffix(line, "Device or resource busy")
		if !busy && !strings.HasSuffix(line, "Read-only file system") {
			t.Errorf("%s, want a read-only file system", line)
		}
	}
	if folders == 0 {
		t.Errorf("no folder of the share's own was tried: %q", lines)
	}
	if after := o.tree(t); !slices.Equal(before, after) {
		t.Errorf("the share on the host was\n%s\nand is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// tree lists the sandbox's folder on the host as its shim sees it, with kinds, modes and owners.
func (o outlaw) tree(t *testing.T) []string {
	t.Helper()
	out := o.Place.Run(t, "nsenter", "-t", fmt.Sprint(o.shim), "-m", "find", o.state, "-maxdepth", "4", "-printf", "%P %y %m %U %l\n")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "rootfs/") || strings.HasPrefix(l, "record.json") })
}

// Both swaps put links to a folder of the host where the host will make, mount or remove something
// for the third container: once for each line that they read, and they say so. The first leaves the
// host's folders where they are, and the second takes them away.
const (
	linksInTheWay = foldersOf + `cd ` + guestContainers + `
echo done; while read -r _; do
	for n in 0 1 2 3 4 5 6 7 8 9; do
		[ -e ../v/$n ] || [ -L ../v/$n ] || ln -s TARGET ../v/$n
	done
	for n in m files volumes mounts 0 1 2; do
		[ ! -d third ] || [ -e third/$n ] || [ -L third/$n ] || ln -s TARGET third/$n
	done
	for e in third/* third/*/*; do
		[ -L $e ] || [ ! -e $e ] || [ -e $e/bin/busybox ] || [ -e $e/of-volume ] || { mv $e third/moved$((i+=1)) && ln -s TARGET $e; }
	done
	echo done
done 2>/dev/null
`
	foldersMoved = foldersOf + `cd ` + guestContainers + `
echo done; while read -r _; do
	for d in third/* third ../v ../c; do
		[ -L $d ] || [ ! -d $d ] || [ -e $d/bin/busybox ] || { mv $d moved$((i+=1)) && ln -s TARGET $d; }
	done
	echo done
done 2>/dev/null
`
)

// raced holds the shim at every step at which it adds a container and takes it away again, and lets
// the guest's root put links in its way. Nothing may come to be where they lead, not even for a
// while.
func (o outlaw) raced(t *testing.T, script string) {
	target := filepath.Join(o.Dir, strings.ReplaceAll(t.Name(), "/", "-"))
	must(t, os.Mkdir(target, 0o755))
	must(t, os.WriteFile(filepath.Join(target, "of-the-host"), []byte("of the host\n"), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	input, lines := io.Pipe()
	defer lines.Close()
	out := o.debug(ctx, input)
	swap := func(text string) {
		t.Helper()
		stuck := time.AfterFunc(host.Patience, cancel)
		defer stuck.Stop()
		_, err := io.WriteString(lines, text)
		must(t, err)
		for out.Scan() {
			if out.Text() == "done" {
				return
			}
		}
		t.Fatalf("the guest's root ended or is stuck: %v", out.Err())
	}
	swap(strings.ReplaceAll(script, "TARGET", target))
	ended := make(chan struct{})
	held, release := o.holdAll(t, "first", ended)
	go func() {
		defer close(ended)
		r := o.Within(t, callLimit, o.args(t, "third")...)
		t.Logf("the third container: exit %d %s", r.Code, cut(r.Stderr))
		o.Remove(t, "third")
	}()
	steps, touched := 0, ""
	for ; held(); steps++ {
		swap("again\n")
		touched = cmp.Or(touched, o.touched(t, target))
		release()
	}
	if touched = cmp.Or(touched, o.touched(t, target)); touched != "" {
		t.Errorf("where the guest's links lead the host has %s", touched)
	}
	if steps < 4 {
		t.Errorf("the shim was held at %d steps, want some for a container that comes and goes", steps)
	}
	t.Logf("%d steps", steps)
}

// holdAll has a container's shim stop at every step. held waits for the next one, and is false once
// all has ended; release lets the shim go on.
func (s *stage) holdAll(t *testing.T, id string, ended <-chan struct{}) (held func() bool, release func()) {
	t.Helper()
	name := func(suffix string) string { return filepath.Join(s.dir, id+"."+suffix) }
	for _, fifo := range []string{name("held"), name("go")} {
		must(t, unix.Mkfifo(fifo, 0o600))
	}
	must(t, os.WriteFile(name("hold"), []byte("*"), 0o600))
	held = func() bool {
		t.Helper()
		read := make(chan error, 1)
		go func() {
			_, err := os.ReadFile(name("held"))
			read <- err
		}()
		select {
		case err := <-read:
			must(t, err)
			return true
		case <-ended:
		case <-time.After(callLimit):
			t.Errorf("the shim of %s reaches no other step", id)
		}
		for _, file := range []string{name("hold"), name("held"), name("go")} {
			must(t, os.Rename(file, file+"-"+filepath.Base(t.Name()))) // who waits still has them
		}
		return false
	}
	return held, func() {
		t.Helper()
		must(t, os.WriteFile(name("go"), nil, 0o600))
	}
}

// touched tells what is new in a folder of the host, or mounted in it; "" for nothing.
func (o outlaw) touched(t *testing.T, target string) string {
	t.Helper()
	entries, err := os.ReadDir(target)
	must(t, err)
	var found []string
	for _, e := range entries {
		if e.Name() != "of-the-host" {
			found = append(found, "made "+e.Name())
		}
	}
	mounts, err := os.ReadFile(o.Place.Path(fmt.Sprintf("/proc/%d/mountinfo", o.shim)))
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+target) {
			found = append(found, "mounted "+strings.Fields(line)[4])
		}
	}
	return strings.Join(found, ", ")
}

// root puts a link in the place of the first container's root file system and has the other
// containers go: the machine's process shows the first one's files, and never the host's.
func (o outlaw) root(t *testing.T) {
	var hosts, shown unix.Stat_t
	must(t, unix.Stat(o.Place.Path("/"), &hosts))
	look := func(when string) {
		t.Helper()
		root := o.Place.Path(fmt.Sprintf("/proc/%d/root", o.machine))
		must(t, unix.Stat(root+"/.", &shown))
		if shown.Dev == hosts.Dev && shown.Ino == hosts.Ino {
			t.Errorf("%s the machine's process shows the root of the host", when)
		}
		for _, name := range []string{"etc/debian_version", "usr/lib", "run/containerd"} {
			if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
				t.Errorf("%s the machine's process shows the host's /%s", when, name)
			}
		}
	}
	const swap = `cd ` + guestContainers + `
mv first zeroth; mkdir first; for e in zeroth/*; do ln -s / first/${e##*/}; done; ln -s / first/rootfs; ls -ld first/* zeroth/*`
	look("at first")
	t.Logf("the guest's root: %s", strings.Join(o.guestRoot(t, foldersOf+swap), "\n"))
	o.Remove(t, "second")
	look("when the second container has gone,")
	root := o.Place.Path(fmt.Sprintf("/proc/%d/root", o.machine))
	if _, err := os.Lstat(filepath.Join(root, "bin/busybox")); err != nil {
		t.Errorf("the files of the only container are not shown: %v", err)
	}
	o.join(t, "fourth")
	look("with another container")
	o.Remove(t, "fourth")
	look("when that has gone, too,")
	// What the swap has made is taken back: the other attacks need the files.
	o.guestRoot(t, `cd `+guestContainers+`; [ ! -e zeroth ] || { rm -rf first; mv zeroth first; }`)
}

// space fills what the guest's root can fill: the file system of the state folder, which is shared
// with the host's services, has room all the time.
func (o outlaw) space(t *testing.T) {
	var start, now unix.Statfs_t
	state := o.Place.Path("/run/cloister")
	must(t, unix.Statfs(state, &start))
	grown := func(what string) {
		t.Helper()
		must(t, unix.Statfs(state, &now))
		const most = 8 << 20 // the logs of a sandbox, which are bounded
		if used := int64(start.Bfree-now.Bfree) * now.Bsize; used > most {
			t.Errorf("%s: the file system of the state folder has %d MiB less, want less than %d", what, used>>20, most>>20)
		}
		if used := int64(start.Ffree - now.Ffree); used > 100 {
			t.Errorf("%s: the file system of the state folder has %d inodes less", what, used)
		}
	}
	const folders = foldersOf + `for d in $(folders); do `
	// More bytes, and then more inodes, than the file system of the state folder has.
	o.guestRoot(t, folders+`dd if=/dev/zero of=$d/fill bs=1M count=200; done 2>&1`)
	grown("large files")
	o.guestRoot(t, folders+`rm -f $d/fill; i=0
while [ $i -lt 4000 ] && : >$d/i$i; do i=$((i+1)); done; done 2>/dev/null`)
	grown("many files")
	r := o.Within(t, callLimit, o.Args("neighbour", []string{"--rm"}, "echo", "well")...)
	if r.Stdout != "well\n" || r.Code != 0 {
		t.Errorf("another sandbox meanwhile = %+v", r)
	}
	o.guestRoot(t, folders+`rm -f $d/i*; done 2>/dev/null`)
	o.guestRoot(t, `flood=$(seq 100); for i in $(seq 1000); do echo flood $flood >/dev/kmsg; done
seq 300000 | dd bs=4k count=300 of=/dev/console 2>&1`)
	grown("console")
	if r := o.Exec(t, "first", "after", "echo", "well"); r.Stdout != "well\n" {
		t.Errorf("exec after all = %+v", r)
	}
	if !bed.Await(host.Patience, func() bool { return len(o.Processes(t, "cloister debug")) == 0 }) {
		t.Error("a shell of the guest's root is left")
	}
}
