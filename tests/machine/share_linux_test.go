// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// share is a folder, shared by mount propagation as a sandbox's is, and its server.
func share(t *testing.T) (string, *served.Server) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "a share, with blanks")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	served.Mount(t, dir, dir, "", unix.MS_BIND, "")
	served.Mount(t, "", dir, "", unix.MS_SHARED, "")
	return dir, served.Start(t, dir)
}

// handOver gives QEMU the server's socket, and has the server leave the host's root.
func handOver(t *testing.T, s *served.Server) {
	t.Helper()
	s.HandedOver()
	s.Leave(t)
}

func TestShare(t *testing.T) { eachBoard(t, testShare) }

func testShare(t *testing.T, board vmm.MachineType) {
	t.Helper()
	dir, server := share(t)
	write(t, filepath.Join(dir, "host"), "from the host")
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "secret")

	m := describe(t, board)
	m.Share = &vmm.Share{Tag: "cloister"}
	r := boot(t, m, qemu.Options{Share: server.Socket()})
	handOver(t, server)
	r.want("mounted", "mount cloister")
	r.want("from the host", "cat host")
	r.want("put", "put guest fromtheguest")
	if got := read(t, filepath.Join(dir, "guest")); got != "fromtheguest" {
		t.Errorf("the host reads %q", got)
	}
	r.want("owned", "chown guest 12345")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "guest"), &st); err != nil || st.Uid != 12345 {
		t.Errorf("owner on the host = %d, %v, want 12345", st.Uid, err)
	}
	attributes(t, r, dir)
	submount(t, r, dir)

	// A link out of the tree is the guest's to follow in the guest's own tree.
	r.want("linked", "symlink out %s", secret)
	if got := r.ask("cat out"); !strings.HasPrefix(got, "error:") {
		t.Errorf("a link to a host's file reads %q in the guest, want an error", got)
	}

	r.end()
	<-server.Done()
	if err := server.Err(); err != nil {
		t.Errorf("virtiofsd's Err after QEMU's end = %v, want nil", err)
	}
}

// TestLookupsAreAnswered has ten threads wait for the file server at once. An emulated machine
// whose barriers QEMU leaves out loses an interrupt after some hundred thousand lookups, and then
// all threads wait for ever.
func TestLookupsAreAnswered(t *testing.T) {
	eachBoard(t, func(t *testing.T, board vmm.MachineType) {
		_, server := share(t)
		m := describe(t, board)
		m.Share = &vmm.Share{Tag: "cloister"}
		r := boot(t, m, qemu.Options{Share: server.Socket()})
		handOver(t, server)
		r.want("mounted", "mount cloister")
		r.soak("lookups", 10000, "lookups 10 1000")
		r.end()
	})
}

// attributes checks which attributes get through.
func attributes(t *testing.T, r *running, dir string) {
	t.Helper()
	r.want("set", "setxattr guest user.colour blue")
	for _, name := range []string{"security.selinux", "security.other", "trusted.overlay.opaque"} {
		if got := r.ask("setxattr guest %s v", name); !strings.HasPrefix(got, "error:") {
			t.Errorf("the guest sets %s: %q", name, got)
		}
	}
	path := filepath.Join(dir, "guest")
	if err := unix.Setxattr(path, "trusted.host", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, "security.selinux", []byte("system_u:object_r:svirt_image_t:s0"), 0); err != nil {
		t.Logf("no label on this file system: %v", err)
	}
	r.want("user.colour", "listxattr guest")
}

// submount checks that what is mounted after the start shows up, as a file system
// of its own, and that the host decides what is read-only.
func submount(t *testing.T, r *running, dir string) {
	t.Helper()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	served.Mount(t, "tmpfs", below, "tmpfs", 0, "size=1m")
	write(t, filepath.Join(below, "f"), "mounted later")
	r.want("mounted later", "cat below/f")
	if top, sub := r.ask("dev host"), r.ask("dev below/f"); top == sub {
		t.Errorf("device numbers above and below a mount are both %s", top)
	}
	served.Mount(t, "", below, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	if got := r.ask("put below/f x"); !strings.HasPrefix(got, "error:") {
		t.Errorf("write below a read-only mount = %q, want an error", got)
	}
}

// TestSecondMountShowsNoMore has the guest's root mount the share's tag again, before and after it
// has looked below a mount of the host's. A second mount is one of the file systems that the first
// one shows: the share's own, or, as Linux takes the newest with that tag, the one below. What the
// host made read-only stays so.
func TestSecondMountShowsNoMore(t *testing.T) {
	t.Parallel()
	dir, server := share(t)
	write(t, filepath.Join(dir, "host"), "from the host")
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	served.Mount(t, "tmpfs", below, "tmpfs", 0, "size=1m")
	write(t, filepath.Join(below, "f"), "below")
	served.Mount(t, "", below, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	m := describe(t, vmm.Q35)
	m.Share = &vmm.Share{Tag: "cloister"}
	r := boot(t, m, qemu.Options{Share: server.Socket()})
	handOver(t, server)
	r.want("mounted", "mount cloister")
	look := func(at string) string {
		t.Helper()
		return r.ask("ls %s", at) + " on " + r.ask("dev %s", at)
	}
	r.want("mounted", "again cloister /early")
	if first, second := look("."), look("../early"); first != second || !strings.HasPrefix(first, "below host on ") {
		t.Errorf("the second mount shows %q, the first %q", second, first)
	}
	r.want("below", "cat below/f")
	r.want("mounted", "again cloister /late")
	top, sub, late := look("."), look("below"), look("../late")
	t.Logf("first: %q, and %q; late: %q", top, sub, late)
	if late != top && late != sub {
		t.Errorf("a mount after the first looked below shows %q, want %q or %q", late, top, sub)
	}
	inLate := "../late/f"
	if late == top {
		inLate = "../late/below/f"
	}
	for _, file := range []string{"below/f", "../early/below/f", inLate} {
		if got := r.ask("put %s x", file); !strings.HasPrefix(got, "error:") {
			t.Errorf("put %s = %q, want an error", file, got)
		}
	}
	if got := read(t, filepath.Join(below, "f")); got != "below" {
		t.Errorf("the host's read-only file is %q", got)
	}
	r.end()
}
