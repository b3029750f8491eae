// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

const templateType = "cloister_template_tmpfs_t"

// sealed is a memory file that nobody can change.
func (f *fake) sealed(text string) *os.File {
	f.t.Helper()
	testenv.NeedRoot(f.t)
	fd, err := unix.MemfdCreate("template-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		f.t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "template-memory")
	f.t.Cleanup(func() { _ = file.Close() })
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	if err = errors.Join(err, unix.Fsetxattr(fd, "security.selinux", []byte(text), 0)); err != nil {
		f.t.Fatal(err)
	}
	return file
}

// TestTemplateReason asks the kernel whether a machine may map a template's memory. A policy from
// before has no such type, and other types' QEMU has no right to it.
func TestTemplateReason(t *testing.T) {
	f := newFake(t)
	d, err := Open(f.options("default/one"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f.share = range []sharing{shareNothing, shareType} {
		if err := TemplateReason(d); err == nil || !strings.Contains(err.Error(), "cloister policy install") {
			t.Errorf("policy with %d: %v, want the remedy", f.share, err)
		}
	}
	f.share = shareMemory
	if err := TemplateReason(d); err != nil {
		t.Errorf("with the rule: %v", err)
	}
	if s, ok := d.(*selinux); ok {
		s.types.Template = ""
	}
	if TemplateReason(d) == nil {
		t.Error("types without one for shared memory have a rule")
	}
}
