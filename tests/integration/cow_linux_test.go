// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	beds "cloister/tests/bed"
)

// onDisks is a bed whose sandboxes start from a template and have their root file systems on disks.
func onDisks(t *testing.T) *templates {
	t.Helper()
	b := withTemplates(t, "manual", beds.Disks(t))
	b.UseDisks(t)
	b.cloister(t, "template", "build")
	b.keep(t)
	return b
}

// memoryFiles are the digests of the templates' memories, as they are stored.
func (b *templates) memoryFiles(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(b.store, "*", "memory"))
	if err != nil || len(names) == 0 {
		t.Fatalf("templates in %s: %v, %v", b.store, names, err)
	}
	sums := map[string]string{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return sums
}

// mapping is the inode of the template's memory that a sandbox's QEMU has mapped privately.
func (b *templates) mapping(t *testing.T, id string) string {
	t.Helper()
	maps, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/maps", b.machine(t, id))))
	if err != nil {
		t.Fatal(err)
	}
	inode := ""
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "/memfd:template-memory") {
			continue
		}
		if fields[1] != "rw-p" {
			t.Errorf("%s has mapped the template as %s, want privately", id, fields[1])
		}
		inode = fields[4]
	}
	return inode
}

// TestCopyOnWrite has sandboxes whose files are all on disks map the template's memory: they have
// no file server, share one file, keep what they write to themselves and have secrets of their own.
func TestCopyOnWrite(t *testing.T) {
	b := onDisks(t)
	before := b.memoryFiles(t)
	ids := []string{"a", "b"}
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() { b.Start(t, id, nil) })
	}
	wg.Wait()
	seen := map[string]string{}
	for _, id := range ids {
		f := b.facts(t, id)
		if !strings.HasPrefix(f.Start, "template ") || f.Memory != "copy-on-write of the template's" || f.Files != "none" {
			t.Errorf("inspect %s: %+v, want a template's memory and no file server", id, f)
		}
		for _, file := range []string{"boot_id", "uuid"} {
			r := b.Exec(t, id, "e", "cat", "/proc/sys/kernel/random/"+file)
			if got := file + " " + r.Stdout; r.Stdout == "" || seen[got] != "" {
				t.Errorf("%s: %s = %+v, %q has the same", id, file, r, seen[got])
			} else {
				seen[got] = id
			}
		}
		// Pages of the template and new ones, and its disk.
		r := b.Exec(t, id, "w", "sh", "-c", "dd if=/dev/urandom of=/f bs=1M count=8 && "+
			"cp /f /dev/shm/f && cmp /f /dev/shm/f && rm /f /dev/shm/f")
		if r.Code != 0 {
			t.Errorf("%s writes memory and its disk: %+v", id, r)
		}
	}
	if first, second := b.mapping(t, "a"), b.mapping(t, "b"); first == "" || first != second {
		t.Errorf("the sandboxes have mapped the files %q and %q, want one", first, second)
	}
	// The file goes on when its maker has ended.
	inode := b.mapping(t, "b")
	b.Remove(t, "a")
	b.Start(t, "c", nil)
	if got := b.mapping(t, "c"); got != inode {
		t.Errorf("a later sandbox has mapped the file %q, want %q", got, inode)
	}
	dir := b.folder(t, "data", map[string]string{"f": "bound\n"})
	b.Start(t, "d", []string{"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:ro"})
	const copied = "copy of the template's: its file server"
	if f := b.facts(t, "d"); !strings.HasPrefix(f.Memory, copied) || !strings.Contains(f.Files, "/data") {
		t.Errorf("inspect a sandbox with a folder: %+v, want a copy and the reason", f)
	}
	if r := b.Exec(t, "d", "e", "cat", "/data/f"); r.Stdout != "bound\n" {
		t.Errorf("cat = %+v", r)
	}
	for name, sum := range b.memoryFiles(t) {
		if before[name] != sum {
			t.Errorf("%s was changed by a sandbox", name)
		}
	}
	for _, id := range []string{"b", "c", "d"} {
		b.Remove(t, id)
	}
}

// TestJoinerWithoutFileServer: a container that joins a sandbox without a file server can be on
// disks as well, and is refused with a folder of the host.
func TestJoinerWithoutFileServer(t *testing.T) {
	b := onDisks(t)
	b.Start(t, "first", nil)
	join := []string{"--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", b.machine(t, "first"))}
	dir := b.folder(t, "data", nil)
	r := b.run(t, "refused", append(join, "--mount", "type=bind,src="+dir+",dst=/data,options=rbind"), "true")
	if r.Code == 0 || !strings.Contains(r.Stderr, "machine.file_server") {
		t.Errorf("a joiner with a folder: %+v, want an error that names machine.file_server", r)
	}
	b.want(t, "joiner", "here", join, "echo", "here")
	b.Remove(t, "first")
}
