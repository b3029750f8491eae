// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
	"cloister/vmm/virtiofsd"
)

// TestResolve: a program without its x bit is not called missing.
func TestResolve(t *testing.T) {
	name := t.TempDir() + "/qemu"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(name, "x"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("resolve of a program that cannot be executed: %v", err)
	}
	if _, err := resolve(name+"none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("resolve of nothing: %v", err)
	}
}

// TestRustServerIsPreferred: a host with both file servers uses the Rust one.
func TestRustServerIsPreferred(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, place := range virtiofsd.Places() {
		if filepath.IsAbs(place) { // PATH has neither here
			places = append(places, dir+place)
		}
	}
	rust, c := dir+"/usr/libexec/virtiofsd", dir+"/usr/lib/qemu/virtiofsd"
	for _, server := range []string{c, rust} { // the better one last
		if err := errors.Join(os.MkdirAll(filepath.Dir(server), 0o755), os.WriteFile(server, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
		if got, err := resolve("", places...); got != server || err != nil {
			t.Errorf("resolve = %q, %v, want %q", got, err, server)
		}
	}
}

// TestProgramsOfOthersAreRefused has root asked to start a program that another user could change,
// by itself or by a folder on the way. The error says what, and how to mend it.
func TestProgramsOfOthersAreRefused(t *testing.T) {
	testenv.NeedRoot(t)
	for _, tt := range []struct{ name, part, want string }{
		{"root's", "", ""},
		{"another's file", "bin/qemu", "owner is uid 65534, want root"},
		{"a file that all may write", "bin/qemu", "mode is 0777"},
		{"another's folder", "bin", "owner is uid 65534, want root"},
		{"a folder that all may write", "bin", "mode is 0777"},
		{"another's link", "link", "owner is uid 65534, want root"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			name, link := filepath.Join(dir, "bin", "qemu"), filepath.Join(dir, "link")
			err := errors.Join(os.Mkdir(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o755), os.Symlink(name, link))
			if err != nil {
				t.Fatal(err)
			}
			spoiled := filepath.Join(dir, tt.part)
			if strings.HasPrefix(tt.want, "owner") {
				err = os.Lchown(spoiled, 65534, 65534)
			} else if tt.want != "" {
				err = os.Chmod(spoiled, 0o777)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = resolve(link, "x")
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			on := ", on the way to " + link
			if spoiled == link {
				on = ""
			}
			if remedy := "chown root:root " + spoiled; err == nil || !strings.Contains(err.Error(), spoiled+on+": "+tt.want) ||
				!strings.Contains(err.Error(), remedy) {
				t.Errorf("resolve: %v, want %q of %s, and %q", err, tt.want, spoiled, remedy)
			}
		})
	}
}

// TestProgramWithAnACLIsRefused has another user who may write a program of root's by its access
// control list. The mode shows that as a right of root's group.
func TestProgramWithAnACLIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	name := filepath.Join(t.TempDir(), "qemu")
	if err := errors.Join(os.WriteFile(name, nil, 0o755), os.Chmod(name, 0o775)); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(name, "x"); err != nil {
		t.Errorf("a program that root's group may write: %v", err)
	}
	// Version 2, and entries of tag, rights and id (linux/posix_acl_xattr.h): the owner, the user
	// nobody, the owning group, the mask, others.
	list := binary.LittleEndian.AppendUint32(nil, 2)
	const nobody, none = 65534, 0xffffffff
	for _, e := range []struct {
		tag, rights uint16
		id          uint32
	}{{1, 7, none}, {2, 7, nobody}, {4, 5, none}, {16, 7, none}, {32, 5, none}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.rights)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	if err := unix.Setxattr(name, "system.posix_acl_access", list, 0); err != nil {
		testenv.Need(t, testenv.Root, "no access control lists in "+filepath.Dir(name)+": "+err.Error())
	}
	if _, err := resolve(name, "x"); !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "setfacl -b "+name) {
		t.Errorf("a program that user %d may write: %v, want a refusal with the remedy", nobody, err)
	}
}
