// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// TestHostileBalloon has the guest's root take the balloon from its driver and send nonsense by it.
// QEMU ignores that, or stops the device until it is reset. Afterwards it answers the guest and the
// host, has taken no memory for it, and its messages have a bound.
func TestHostileBalloon(t *testing.T) {
	t.Parallel()
	m := describe(t, vmm.Q35)
	m.Balloon = true
	r := boot(t, m, qemu.Options{})
	// The control: the page that it gives away is empty afterwards.
	r.want("1 done, 0 refused, 0 in the page", "balloon own 1")
	before := private(t, r.Pid())
	for _, tt := range []struct{ what, want string }{
		{"outside 10", "10 done, 0 refused"},
		{"odd 10", "20 done, 0 refused"},
		{"flood 20", "1000 done, 0 refused"},
		{"index 10", ""}, // QEMU 7.2 takes as many buffers as the guest says
		{"reported 10", ""},
		{"statistics 10", ""},
		{"config 1000", "0 done, 0 refused"},
		{"loop 10", "0 done, 10 refused"},
		{"head 10", "0 done, 10 refused"},
		{"empty 10", "0 done, 10 refused"},
		{"length 10", "0 done, 10 refused"},
		{"ring 10", "0 done"},
		{"length 17000", "0 done, 17000 refused"}, // 1 MiB of messages and more
	} {
		got := r.ask("balloon %s", tt.what)
		if !strings.HasPrefix(got, tt.want) || strings.HasPrefix(got, "error:") {
			t.Errorf("balloon %s = %q, want %q", tt.what, got, tt.want)
		}
		if _, err := r.Memory(t.Context()); err != nil {
			t.Errorf("after %s QEMU does not answer the host: %v", tt.what, err)
		}
		t.Logf("%s: %s", tt.what, got)
	}
	const most = 16 << 10
	if after := private(t, r.Pid()); after > before+most {
		t.Errorf("QEMU had %d KiB and has %d, want at most %d more", before, after, most)
	}
	if log := []byte(read(t, r.log)); len(log) > 1<<20 || !bytes.Contains(log, []byte("[log was full")) {
		t.Errorf("qemu.log has %d bytes, want one that has started over at 1 MiB", len(log))
	}
	r.want("a b", "echo a b")
	r.end()
}

// private is what a process has of memory of its own, in KiB.
func private(t *testing.T, pid int) (kib int) {
	t.Helper()
	_, rest, _ := strings.Cut(read(t, fmt.Sprintf("/proc/%d/status", pid)), "RssAnon:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestFullLogs has a guest write to its console, and provoke messages of QEMU's, when the file
// system of both logs is full. The guest goes on and ends in order, and the last lines are known.
func TestFullLogs(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t)
	small := t.TempDir()
	served.Mount(t, "tmpfs", small, "tmpfs", 0, "size=64k")
	m := describe(t, vmm.Q35)
	m.Balloon = true
	r := boot(t, m, qemu.Options{
		Console: create(t, filepath.Join(small, "console.log")), Log: create(t, filepath.Join(small, "qemu.log")),
	})
	r.want("spammed", "spam 2000")
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil || st.Bfree != 0 {
		t.Errorf("%d blocks are free, %v: the flood was too small", st.Bfree, err)
	}
	r.want("0 done, 100 refused, 0 in the page", "balloon empty 100")
	r.want("a b", "echo a b")
	if tail := r.ConsoleTail(); !strings.Contains(tail, "spam 1999 ") {
		t.Errorf("the console's last lines are %q, want the flood's end", tail)
	}
	r.end()
}
