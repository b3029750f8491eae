// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// fake is a kernel with AppArmor, in files.
type fake struct {
	t    *testing.T
	root string
	// dead are the owners that do not run.
	dead []int
	// entered are the writes to the thread's attribute.
	entered []string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, root: t.TempDir()}
	f.write("module/parameters/enabled", "Y\n")
	f.write("module/parameters/mode", "enforce\n")
	f.write("security/.load", "")
	f.write("security/profiles", "/usr/sbin/somebody (complain)\n")
	f.write("proc/self/status", "")
	f.write("program", "")
	return f
}

func (f *fake) path(name string) string { return filepath.Join(f.root, name) }

func (f *fake) write(name, text string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(f.path(name)), 0o700), os.WriteFile(f.path(name), []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// process makes a process with one thread.
func (f *fake) process(pid int, confinement string) {
	f.t.Helper()
	at := fmt.Sprintf("proc/%d/", pid)
	f.write(at+"attr/apparmor/current", confinement)
	f.write(fmt.Sprintf("%stask/%d/attr/apparmor/current", at, pid), confinement)
	if err := os.Symlink(f.path("program"), f.path(at+"exe")); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) host() Host {
	return Host{
		Proc: f.path("proc"), Security: f.path("security"), Module: f.path("module"),
		Compile: func(_ context.Context, text string) ([]byte, error) { return []byte(text), nil },
		Tell:    f.tell,
		Enter:   func(text string) error { f.entered = append(f.entered, text); return nil },
	}
}

// tell loads and removes profiles as the kernel does.
func (f *fake) tell(file string, message []byte) error {
	lines := f.profiles()
	switch file {
	case ".load":
		_, rest, _ := strings.Cut(string(message), "\nprofile ")
		name, _, _ := strings.Cut(rest, " ")
		if slices.Contains(lines, name+" (enforce)") {
			return unix.EEXIST
		}
		lines = append(lines, name+" (enforce)", name+"//qemu (enforce)")
	case ".remove":
		before := len(lines)
		lines = slices.DeleteFunc(lines, func(l string) bool {
			name, _, _ := strings.Cut(l, " ")
			return name == string(message) || strings.HasPrefix(name, string(message)+"//")
		})
		if len(lines) == before {
			return unix.ENOENT
		}
	default:
		return unix.EINVAL
	}
	f.write("security/profiles", strings.Join(lines, "\n")+"\n")
	return nil
}

func (f *fake) profiles() []string {
	text, err := os.ReadFile(f.path("security/profiles"))
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// journal is one as the process pid opens it.
func (f *fake) journal(pid int) *Journal {
	f.t.Helper()
	j, err := Open(Options{
		Dir: f.path("journal"), Self: sys.Process{PID: pid, Boot: "b", Start: 1}, Host: f.host(),
		Alive: func(p sys.Process) (bool, error) { return p.Boot == "b" && !slices.Contains(f.dead, p.PID), nil },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return j
}
