// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"cloister/labels"
	"cloister/tests/testenv"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestVerify(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		program string
		change  func(f *far)
		want    error
	}{
		{"right", self, func(*far) {}, nil},
		{"one thread wrong", self, func(f *far) {
			f.write("proc/7/task/9/attr/current", "system_u:system_r:cloister_qemu_t:s0:c1,c3")
		}, ErrWrongLabel},
		{"confined by nothing", self, func(f *far) {
			f.write("proc/7/task/7/attr/current", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023")
		}, ErrWrongLabel},
		{"unreadable label", self, func(f *far) { f.write("proc/7/task/7/attr/current", "kernel") }, errAny},
		{"other program", "/bin/true", func(*far) {}, ErrWrongProgram},
		{"gone", self, func(f *far) { remove(f, "proc/7") }, fs.ErrNotExist},
		{"turned permissive", self, func(f *far) { f.write("selinux/enforce", "0") }, ErrPermissive},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			for _, task := range []string{"7", "8"} {
				f.write("proc/7/task/"+task+"/attr/current", guest+"\x00")
			}
			if err := os.Symlink(self, filepath.Join(f.root, "proc/7/exe")); err != nil {
				t.Fatal(err)
			}
			d := open(t, f)
			test.change(f)
			proof, err := d.Verify(7, parse(t, guest), test.program)
			if test.want == nil {
				if err != nil || proof.Threads != 2 || proof.Label.String() != guest {
					t.Errorf("Verify = %+v, %v, want two threads under %s", proof, err, guest)
				}
				return
			}
			if err == nil || (!errors.Is(test.want, errAny) && !errors.Is(err, test.want)) {
				t.Errorf("Verify = %v, want %v", err, test.want)
			}
		})
	}
}

// TestVerifyBeforeAndAfterExec is about a process of an OCI runtime, of which one thread executes
// the container's program under a label that it has pending.
func TestVerifyBeforeAndAfterExec(t *testing.T) {
	const shim, other = "system_u:system_r:cloister_shim_t:s0", "system_u:system_r:cloister_qemu_t:s0:c1,c3"
	type thread = [2]string // current, exec
	tests := []struct {
		name             string
		first, second    thread
		waiting, started error
	}{
		{"pending in both", thread{shim, guest}, thread{shim, guest}, nil, nil},
		{"pending in the one that executes", thread{shim, guest}, thread{shim, ""}, nil, nil},
		{"pending in another alone", thread{shim, ""}, thread{shim, guest}, ErrWrongLabel, ErrWrongLabel},
		{"another one pending in a second thread", thread{shim, guest}, thread{shim, other}, ErrWrongLabel, ErrWrongLabel},
		{"pending in none", thread{shim, ""}, thread{shim, ""}, ErrWrongLabel, ErrWrongLabel},
		{"another level pending", thread{shim, other}, thread{shim, ""}, ErrWrongLabel, ErrWrongLabel},
		{"runs", thread{guest, ""}, thread{guest, ""}, ErrWrongLabel, nil},
		{"a thread runs without", thread{guest, ""}, thread{shim, ""}, ErrWrongLabel, ErrWrongLabel},
		{"runs at another level", thread{other, ""}, thread{other, ""}, ErrWrongLabel, ErrWrongLabel},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			f.write("proc/7/attr/current", test.first[0]+"\x00")
			for task, labels := range map[string]thread{"7": test.first, "8": test.second} {
				f.write("proc/7/task/"+task+"/attr/current", labels[0]+"\x00")
				f.write("proc/7/task/"+task+"/attr/exec", labels[1])
			}
			d := open(t, f)
			if _, err := d.VerifyWaiting(7, parse(t, guest), ""); !errors.Is(err, test.waiting) {
				t.Errorf("VerifyWaiting = %v, want %v", err, test.waiting)
			}
			if _, err := d.VerifyStarted(7, parse(t, guest), ""); !errors.Is(err, test.started) {
				t.Errorf("VerifyStarted = %v, want %v", err, test.started)
			}
		})
	}
}

func TestAccess(t *testing.T) {
	f := newFar(t)
	f.rules["a_t b_t file"] = "read open"
	f.permissive["p_t"] = true
	host := f.host()
	a, b := parse(t, "u:r:a_t:s0"), parse(t, "u:object_r:b_t:s0")
	if got, err := host.Access(a, b, "file", "read", "open"); err != nil || !got.Allowed || got.Permissive {
		t.Errorf("Access = %+v, %v, want allowed", got, err)
	}
	if got, err := host.Access(a, b, "file", "read", "write"); err != nil || got.Allowed ||
		len(got.Missing) != 1 || got.Missing[0] != "write" {
		t.Errorf("Access = %+v, %v, want write missing", got, err)
	}
	if got, err := host.Access(a.WithType("p_t"), b, "file"); err != nil || !got.Permissive {
		t.Errorf("Access = %+v, %v, want permissive", got, err)
	}
	if _, err := host.Access(a, b, "file", "fly"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Access with an unknown permission = %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := host.Access(a, b, "../file"); err == nil {
		t.Error("Access accepted a path as a class")
	}
}

func TestStatusAndBooleans(t *testing.T) {
	f := newFar(t)
	f.write("selinux/booleans/virt_use_nfs", "1 1")
	f.write("selinux/booleans/virt_use_usb", "0 0")
	host := f.host()
	if s, err := host.Status(); err != nil || !s.Enforcing || s.Sequence != 2 || s.PolicyLoads != 1 {
		t.Errorf("Status = %+v, %v", s, err)
	}
	f.status(3, 1, 1)
	if s, err := host.Status(); err == nil {
		t.Errorf("Status = %+v of a page that never holds still, want an error", s)
	}
	for name, want := range map[string][2]bool{
		"virt_use_nfs": {true, true}, "virt_use_usb": {false, true},
		"virt_use_comm": {false, false},
	} {
		if value, known, err := host.Boolean(name); err != nil || value != want[0] || known != want[1] {
			t.Errorf("Boolean(%s) = %v, %v, %v, want %v", name, value, known, err, want)
		}
	}
	if _, _, err := host.Boolean("../enforce"); err == nil {
		t.Error("Boolean accepted a path")
	}
}

func TestProcesses(t *testing.T) {
	f := newFar(t)
	f.write("proc/11/attr/current", guest+"\x00")
	f.write("proc/12/attr/current", "docker-default (enforce)\n")
	f.write("proc/13/stat", "")
	f.write("proc/14/attr/current/x", "")
	seen, err := f.host().Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.Processes) != 1 || seen.Processes[0] != (labels.Process{PID: 11, Label: parse(t, guest)}) || seen.Hidden != 1 {
		t.Errorf("Processes = %+v, want pid 11 and one hidden", seen)
	}
}

// TestThisHost asks the real kernel.
func TestThisHost(t *testing.T) {
	testenv.NeedSELinux(t)
	host := Host{}
	own, err := host.OwnLabel()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Valid(own); err != nil {
		t.Error(err)
	}
	if _, err := host.Status(); err != nil {
		t.Error(err)
	}
	if seen, err := host.Processes(t.Context()); err != nil || len(seen.Processes) == 0 {
		t.Errorf("Processes = %d, %v", len(seen.Processes), err)
	}
}

func FuzzParseDecision(f *testing.F) {
	f.Add("1 ffffffff 0 ffffffff 7 1")
	f.Fuzz(func(_ *testing.T, answer string) {
		_, _, _ = parseDecision(answer)
	})
}

// BenchmarkProcesses looks at 1,000 labelled processes made of files.
func BenchmarkProcesses(b *testing.B) {
	t := &testing.T{}
	root := b.TempDir()
	f := &far{t: t, root: root}
	f.write("selinux/enforce", "1")
	for pid := range 1000 {
		f.write("proc/"+itoa(pid+1)+"/attr/current", guest)
	}
	host := f.host()
	for b.Loop() {
		if seen, err := host.Processes(b.Context()); err != nil || len(seen.Processes) != 1000 {
			b.Fatal(len(seen.Processes), err)
		}
	}
}
