// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// requests are the numbers of requests by operation, in capital letters as in the kernel's names.
type requests map[string]int

// operation is what both servers write of a request when they debug: "opcode: LOOKUP (1)" and
// "opcode=Lookup (1)".
var operation = regexp.MustCompile(`opcode[:=] ?([A-Za-z0-9_]+) \(`)

// counter reads the log of a file server, which has a line for each request.
type counter struct {
	t   *testing.T
	r   *running
	log string
}

// count gives the requests of what do has the guest do.
func (c counter) count(do func()) requests {
	c.t.Helper()
	before := c.written()
	do()
	after := c.written()
	if !strings.HasPrefix(after, before) {
		c.t.Fatal("the file server's log was full and has started over")
	}
	return seenIn(after[len(before):])
}

// written is the log up to a request that it makes, which nothing else does: the log is written
// late.
func (c counter) written() string {
	c.t.Helper()
	const mark = "SETXATTR"
	marks := seenIn(read(c.t, c.log))[mark]
	c.r.want("set", "setxattr . user.mark x")
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(10 * time.Millisecond) {
		if text := read(c.t, c.log); seenIn(text)[mark] > marks {
			return text
		}
		if time.Now().After(deadline) {
			c.t.Fatal("the file server's log does not have the last request")
		}
	}
}

func seenIn(log string) requests {
	seen := requests{}
	for _, m := range operation.FindAllStringSubmatch(log, -1) {
		seen[strings.ToUpper(m[1])]++
	}
	return seen
}

// smallFileSteps are what a program does with small files, in order, and the most requests that a
// file takes. A LOOKUP or a GETATTR may be for what is older than a second: the guest may be slow.
// The guest's kernel sends a FORGET some time after the unlink.
var smallFileSteps = []struct {
	verb string
	most requests
}{
	{"stat", requests{"LOOKUP": 1, "GETATTR": 1}},
	{"read", requests{"LOOKUP": 1, "GETATTR": 1, "OPEN": 1, "READ": 1, "RELEASE": 1}},
	{"read", requests{"LOOKUP": 1, "GETATTR": 1, "OPEN": 1, "READ": 1, "RELEASE": 1}},
	{"append", requests{"LOOKUP": 1, "GETATTR": 1, "OPEN": 1, "WRITE": 1, "FLUSH": 1, "RELEASE": 1}},
	{"missing", requests{"LOOKUP": 1}},
	{"unlink", requests{"LOOKUP": 1, "UNLINK": 1, "FORGET": 1}},
	{"write", requests{"LOOKUP": 1, "CREATE": 1, "WRITE": 1, "FLUSH": 1, "RELEASE": 1, "FORGET": 1}},
	{"unlink", requests{"LOOKUP": 1, "UNLINK": 1, "FORGET": 1}},
	{"create", requests{"CREATE": 1, "WRITE": 1, "FLUSH": 1, "RELEASE": 1, "FORGET": 1}},
}

// TestSmallFilesTakeFewRequests counts what the guest's kernel asks the file server.
func TestSmallFilesTakeFewRequests(t *testing.T) {
	t.Parallel()
	const files = 20 // the log holds about 1500 requests
	const slack = 5  // folders, and the counter's own
	folder, r, log := smallFilesInGuest(t, files, false)
	for _, step := range smallFileSteps {
		seen := counter{t, r, log}.count(func() { r.want(fmt.Sprintf("%d done", files), "small %s d %d", step.verb, files) })
		t.Logf("%s: %v", step.verb, seen)
		for op, n := range seen {
			if most := step.most[op]*files + slack; n > most {
				t.Errorf("%s of %d files: %d requests %s, want at most %d", step.verb, files, n, op, most)
			}
		}
	}
	hostChanges(t, r, folder)
	r.end()
}

// TestWalkTakesNoLookups: where the server lists folders with attributes, the files of a folder
// that was just listed are opened without a LOOKUP each.
func TestWalkTakesNoLookups(t *testing.T) {
	t.Parallel()
	const files = 20
	const slack = 5 // for the folder
	_, r, log := smallFilesInGuest(t, files, true)
	var answer string
	seen := counter{t, r, log}.count(func() { answer = r.ask("walk d") })
	t.Logf("walk: %s: %v", answer, seen)
	var n, ms int
	if _, err := fmt.Sscanf(answer, "%d done in %d ms", &n, &ms); err != nil || n != files {
		t.Fatalf("walk of %d files: %q", files, answer)
	}
	most := requests{"OPEN": files, "READ": files, "RELEASE": files}
	if ms >= 1000 {
		most["LOOKUP"] = files // the guest was so slow that it has to ask again
	}
	for op, n := range seen {
		if n > most[op]+slack {
			t.Errorf("walk of %d files: %d requests %s, want at most %d", files, n, op, most[op]+slack)
		}
	}
	r.end()
}

// smallFilesInGuest starts a guest that has a folder d of files, which is returned. The file
// server's log, the last result, has a line for each request. With plus it lists folders with
// attributes.
func smallFilesInGuest(t *testing.T, files int, plus bool) (string, *running, string) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := t.TempDir()
	served.Mount(t, dir, dir, "", unix.MS_BIND, "")
	served.Mount(t, "", dir, "", unix.MS_SHARED, "")
	folder := filepath.Join(dir, "d")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		write(t, filepath.Join(folder, fmt.Sprint(i)), "small")
	}
	server := served.StartDebug(t, dir, plus)
	m := describe(t, vmm.MicroVM)
	m.Share = &vmm.Share{Tag: "cloister"}
	r := boot(t, m, qemu.Options{Share: server.Socket()})
	handOver(t, server)
	r.want("mounted", "mount cloister")
	return folder, r, server.Log
}

// hostChanges are those of docker cp and of tools that edit a volume. What the guest keeps of a
// name or a file must not hide them.
func hostChanges(t *testing.T, r *running, folder string) {
	t.Helper()
	if got := r.ask("cat d/later"); !strings.HasPrefix(got, "error:") {
		t.Errorf("a file that is not there reads %q", got)
	}
	write(t, filepath.Join(folder, "later"), "first")
	r.want("first", "cat d/later") // at once: it was looked for before
	write(t, filepath.Join(folder, "later"), "again")
	r.want("again", "cat d/later") // at once: an open reads anew
	write(t, filepath.Join(folder, "new"), "replaced")
	if err := os.Rename(filepath.Join(folder, "new"), filepath.Join(folder, "later")); err != nil {
		t.Fatal(err)
	}
	r.wantSoon("replaced", "cat d/later")
	if err := os.Remove(filepath.Join(folder, "later")); err != nil {
		t.Fatal(err)
	}
	r.wantSoon("error: open /mnt/d/later: no such file or directory", "cat d/later")
}
