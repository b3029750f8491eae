// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// A container that has a folder as a volume, and a file of that folder as its /etc/hosts, chooses
// what the host reads as that file: hosts, hostname and resolv.conf are copied into the guest. None
// of its choices may make the host read, or open, anything else.

// secret is what no container may see.
const secret = "secret of the host"

// swap is one thing that takes the place of a copied file.
type swap struct {
	name string
	// make is a script of the container that makes it as "$n", a fresh name in the volume; SECRET
	// is a file of the host, of the same name in no volume.
	make string
	// kind is what an error calls it.
	kind string
}

// acts says whether to open it waits, or does something: no harm is in opening the others.
func (s swap) acts() bool {
	return s.name == "FIFO" || strings.HasSuffix(s.name, " device") && !strings.HasPrefix(s.name, "link")
}

func swaps() []swap {
	return []swap{
		{"absolute link", `ln -s SECRET "$n"`, "link|regular file"},
		{"relative link", `ln -s ../outside/secret "$n"`, "link|regular file"},
		{"link to a device", `ln -s /dev/zero "$n"`, "link|device|regular file"},
		{"link to nothing", `ln -s /nowhere "$n"`, "link|regular file"},
		{"link to a link", `ln -sf SECRET "$n.to"; ln -s "${n##*/}.to" "$n"`, "link|regular file"},
		{"character device", `mknod "$n" c 1 5`, "device|regular file"},
		{"block device", `mknod "$n" b 7 0`, "device|regular file"},
		{"folder", `mkdir "$n"`, "folder|directory|regular file"},
		{"too large", `truncate -s 1G "$n"`, "bytes|large"},
		{"FIFO", `mkfifo "$n"`, "FIFO|regular file"},
	}
}

// files is a volume with what is copied from it, and what is not for the container.
type files struct {
	volume, secret string
}

func (s *stage) files(t *testing.T, name string) files {
	t.Helper()
	f := files{filepath.Join(s.Dir, name, "volume"), filepath.Join(s.Dir, name, "outside", "secret")}
	must(t, os.MkdirAll(f.volume, 0o755))
	must(t, os.MkdirAll(filepath.Dir(f.secret), 0o755))
	must(t, os.WriteFile(f.secret, []byte(secret+"\n"), 0o644))
	return f
}

// put writes a file of the volume, as an engine does, or anew where something else has the name.
func (f files) put(t *testing.T, name, text string) {
	t.Helper()
	at := filepath.Join(f.volume, name)
	if info, err := os.Lstat(at); err == nil && !info.Mode().IsRegular() {
		must(t, os.RemoveAll(at))
	}
	must(t, os.WriteFile(at, []byte(text), 0o644))
}

// script is a swap's, with the names in it.
func (f files) script(s swap, name string) string {
	return fmt.Sprintf("n=%q; %s", name, strings.ReplaceAll(s.make, "SECRET", f.secret))
}

// TestCopiedFileAtCreate wants the start of a container refused whose /etc/hosts, /etc/hostname or
// /etc/resolv.conf is no plain file.
func TestCopiedFileAtCreate(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	f := s.files(t, "create")
	destinations := []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
	for i, swap := range swaps() {
		t.Run(swap.name, func(t *testing.T) {
			id, source := fmt.Sprintf("create-%d", i), filepath.Join(f.volume, fmt.Sprint(i))
			s.Place.Run(t, "sh", "-ec", f.script(swap, source))
			opened := s.opens(t, source)
			destination := destinations[i%len(destinations)]
			mount := "type=bind,src=" + source + ",dst=" + destination + ",options=rbind:rw"
			r := s.Within(t, host.Patience, s.Args(id, []string{"--rm", "--mount", mount}, "cat", destination)...)
			if strings.Contains(r.Stdout, secret) || r.Code == 0 {
				t.Errorf("the container was started and has %q", r.Stdout)
			}
			if !strings.Contains(r.Stderr, source) || !regexp.MustCompile(swap.kind).MatchString(r.Stderr) &&
				swap.name != "link to nothing" {
				t.Errorf("the error names not %q with a word of %q: %s", source, swap.kind, r.Stderr)
			}
			if n := opened(); n > 0 && swap.acts() {
				t.Errorf("the host has opened the %s %d times", swap.name, n)
			}
		})
	}
	// The way to the file is the engine's, who may have links in it: only the file itself must be
	// none.
	t.Run("below a link", func(t *testing.T) {
		f.put(t, "plain", "127.0.0.1 plain\n")
		way := filepath.Join(filepath.Dir(f.volume), "way")
		must(t, os.Symlink(f.volume, way))
		mount := "type=bind,src=" + way + "/plain,dst=/etc/hosts,options=rbind:rw"
		r := s.Within(t, callLimit, s.Args("way", []string{"--rm", "--mount", mount}, "cat", "/etc/hosts")...)
		if r.Stdout != "127.0.0.1 plain\n" || r.Code != 0 {
			t.Errorf("run = %+v, want the plain file", r)
		}
	})
	s.NothingLeft(t, before)
}

// opens counts from now on how often anybody on the host opens a file that is no link: to open a
// FIFO waits, and to open a device acts.
func (s *stage) opens(t *testing.T, name string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, name, unix.IN_OPEN|unix.IN_DONT_FOLLOW)
	must(t, err)
	return func() int {
		n, err := unix.Read(fd, make([]byte, 1<<12))
		if err != nil {
			return 0
		}
		return n / unix.SizeofInotifyEvent
	}
}

// TestCopiedFileBeforeStart swaps /etc/hosts between Create and Start: the container has what was
// there at Create, or is not started.
func TestCopiedFileBeforeStart(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	d := s.newDirect(t, "before")
	must(t, d.create(t.Context(), d.id))
	_, err := d.task.Start(t.Context(), &taskapi.StartRequest{ID: d.id})
	must(t, native(err))
	machine := s.Marked(t, d.id, "qemu-system")
	for i, swap := range swaps() {
		t.Run(swap.name, func(t *testing.T) {
			f := s.files(t, fmt.Sprintf("before-%d", i))
			f.put(t, "hosts", "127.0.0.1 good\n")
			id, seen := fmt.Sprintf("before-%d", i), filepath.Join(f.volume, "seen")
			bundle := s.newMember(t, id, machine, f)
			ctx, cancel := context.WithTimeout(t.Context(), host.Patience)
			defer cancel()
			_, err := d.task.Create(ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: bundle})
			must(t, native(err))
			defer func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), host.Patience)
				defer cancel()
				_, _ = d.task.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: 9})
				if _, err := d.task.Wait(ctx, &taskapi.WaitRequest{ID: id}); err != nil {
					t.Logf("wait: %v", native(err))
				}
				if _, err := d.task.Delete(ctx, &taskapi.DeleteRequest{ID: id}); err != nil {
					t.Errorf("delete: %v", native(err))
				}
			}()
			s.Place.Run(t, "sh", "-ec", f.script(swap,
				filepath.Join(f.volume, "new"))+fmt.Sprintf("; cd %q; rm hosts; mv new hosts", f.volume))
			opened := s.opens(t, filepath.Join(f.volume, "hosts"))
			if _, err = d.task.Start(ctx, &taskapi.StartRequest{ID: id}); err != nil {
				if err = native(err); ctx.Err() != nil || !strings.Contains(err.Error(), filepath.Join(f.volume, "hosts")) {
					t.Errorf("Start = %v, want the last good copy, or a refusal with the file's name", err)
				}
			} else if got := await(seen); got != "127.0.0.1 good\n" {
				t.Errorf("the container's /etc/hosts = %q, want what was there at Create", cut(got))
			}
			if n := opened(); n > 0 && swap.acts() {
				t.Errorf("the host has opened the %s %d times", swap.name, n)
			}
		})
	}
}

// newMember makes a bundle of a container that joins a machine's network and tells in the volume,
// as "seen", what its /etc/hosts has.
func (s *stage) newMember(t *testing.T, id string, machine int, f files) string {
	t.Helper()
	bundle := filepath.Join(s.Dir, "bundles", id)
	s.newBundle(t, bundle)
	must(t, os.MkdirAll(filepath.Join(bundle, "rootfs", "etc"), 0o755))
	writeSpec(t, bundle, func(spec *specs.Spec) {
		const script = "busybox cat /etc/hosts >/volume/seen~; busybox mv /volume/seen~ /volume/seen; exec busybox sleep 1000"
		spec.Process.Args = []string{"/bin/busybox", "sh", "-c", script}
		for i, n := range spec.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace {
				spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/net", machine)
			}
		}
		spec.Mounts = append(spec.Mounts,
			specs.Mount{Destination: "/volume", Source: f.volume, Type: "bind", Options: []string{"rbind", "rw"}},
			specs.Mount{
				Destination: "/etc/hosts", Source: filepath.Join(f.volume, "hosts"), Type: "bind",
				Options: []string{"rbind", "rw"},
			})
	})
	return bundle
}

// await gives a file's text once it is there.
func await(name string) string {
	var data []byte
	bed.Await(host.Patience, func() bool {
		var err error
		data, err = os.ReadFile(name)
		return err == nil
	})
	return string(data)
}

// cut shortens what a failed test shows.
func cut(text string) string { return text[:min(len(text), 200)] }

// TestCopiedFileWhileRunning swaps the files under a running container: it keeps the last good
// copy, the log has one line for each refusal, and what is good again later comes.
func TestCopiedFileWhileRunning(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	f := s.files(t, "running")
	must(t, os.Mkdir(filepath.Join(f.volume, "d"), 0o755))
	options := []string{"--mount", "type=bind,src=" + f.volume + ",dst=/volume,options=rbind:rw"}
	for _, name := range []string{"hosts", "resolv.conf", "d/hostname"} {
		f.put(t, name, "good\n")
		// The file that the host may watch stays within reach under another name.
		must(t, os.Link(filepath.Join(f.volume, name), filepath.Join(f.volume, "first-"+filepath.Base(name))))
		options = append(options, "--mount", "type=bind,src="+f.volume+"/"+name+",dst=/etc/"+filepath.Base(name)+",options=rbind:rw")
	}
	s.Start(t, "c", options)
	c := copier{stage: s, files: f}
	t.Run("name server", func(t *testing.T) { c.swapped(t, "resolv.conf", swaps()[0]) })
	t.Run("a link in the way", c.swappedFolder)
	t.Run("another plain file by rename", func(t *testing.T) {
		c.put(t, "hosts", "before rename\n")
		f.put(t, "other", "other\n")
		c.in(t, "mv /volume/other /volume/hosts; : >>/volume/first-hosts")
		c.put(t, "hosts", "behind rename\n")
	})
	for _, swap := range swaps() {
		t.Run(swap.name, func(t *testing.T) { c.swapped(t, "hosts", swap) })
	}
	s.Remove(t, "c")
	s.NothingLeft(t, before)
}

// copier has a container c whose files are swapped.
type copier struct {
	*stage
	files files
	count int
}

// in runs a script in the container and gives what it prints.
func (c *copier) in(t *testing.T, script string) string {
	t.Helper()
	c.count++
	r := c.Exec(t, "c", fmt.Sprintf("e%d", c.count), "sh", "-c", script)
	if r.Code != 0 {
		t.Fatalf("%s: %+v", script, r)
	}
	return r.Stdout
}

// put writes a file as an engine does, and waits until the container has it.
func (c *copier) put(t *testing.T, name, text string) {
	t.Helper()
	c.files.put(t, name, text)
	c.in(t, ": >>/volume/first-"+filepath.Base(name)) // who watches the first file looks again, too
	got := ""
	if !bed.Await(30*time.Second, func() bool { got = c.in(t, "cat /etc/"+filepath.Base(name)); return got == text }) {
		t.Fatalf("the container's %s = %q, want %q: the host does not follow the file any more", name, cut(got), text)
	}
}

// complaints are the log's warnings and errors about a file, from an offset on.
func (c *copier) complaints(t *testing.T, from int, name string) []string {
	t.Helper()
	data, err := os.ReadFile(c.LogFile)
	must(t, err)
	var found []string
	for line := range strings.Lines(string(data[from:])) {
		loud := strings.Contains(line, "level=warn") || strings.Contains(line, "level=error")
		if loud && strings.Contains(line, filepath.Join(c.files.volume, name)) {
			found = append(found, line)
		}
	}
	return found
}

func (c *copier) logSize(t *testing.T) int {
	t.Helper()
	info, err := os.Stat(c.LogFile)
	must(t, err)
	return int(info.Size())
}

// swapped puts something else in the place of a copied file, three times, and then a good file.
func (c *copier) swapped(t *testing.T, name string, swap swap) {
	t.Helper()
	base := filepath.Base(name)
	good := "good before " + swap.name + "\n"
	c.put(t, name, good)
	from := c.logSize(t)
	for range 3 {
		c.in(t, c.files.script(swap, "/volume/new")+"; cd /volume; [ -L new ] || [ ! -d new ] || rm -rf "+name)
		c.in(t, fmt.Sprintf("cd /volume; mv new %s; : >>first-%s", name, base))
	}
	opened := c.opens(t, filepath.Join(c.files.volume, name))
	c.in(t, ": >>/volume/first-"+base)
	got := ""
	// Either comes within a second of the change on an idle host: the wrong bytes, or the warning.
	if !bed.Await(20*time.Second, func() bool {
		got = c.in(t, "cat /etc/"+base)
		return got != good || len(c.complaints(t, from, name)) > 0
	}) {
		t.Errorf("the log says nothing of a %s in the place of %s", swap.name, name)
	}
	if got != good {
		t.Errorf("the container's %s = %q, want the last good copy, %q", base, cut(got), good)
	}
	if n := opened(); n > 0 && swap.acts() {
		t.Errorf("the host has opened the %s %d times", swap.name, n)
	}
	c.in(t, "rm -rf /volume/new*; rm -rf /volume/"+name) // a folder, too
	c.put(t, name, "good after "+swap.name+"\n")
	if lines := c.complaints(t, from, name); len(lines) > 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", len(lines), strings.Join(lines, ""))
	}
}

// swappedFolder puts a link in the place of the folder that a copied file is in.
func (c *copier) swappedFolder(t *testing.T) {
	const name, good = "d/hostname", "good before the link\n"
	c.put(t, name, good)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(c.files.secret), "hostname"), []byte(secret+"\n"), 0o644))
	c.in(t, "cd /volume; mv d d.first; ln -s "+filepath.Dir(c.files.secret)+" d")
	c.in(t, "cd /volume; echo good in the moved folder >d.first/hostname; : >>first-hostname")
	got := ""
	// Both are right: the old bytes, or those of the folder that was moved. Only the secret is
	// wrong.
	bed.Await(20*time.Second, func() bool { got = c.in(t, "cat /etc/hostname"); return got != good })
	if strings.Contains(got, secret) {
		t.Errorf("the container's hostname = %q", got)
	}
	c.in(t, "cd /volume; rm d; mv d.first d")
	c.put(t, name, "good after the link\n")
}
