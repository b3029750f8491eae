// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// far is a kernel made of files, a table of rules, and a record of what was set on which thread.
type far struct {
	t *testing.T
	// root holds proc and selinux.
	root string
	// rules maps "source-type target-type class" to permissions; a rule that ends in "!" needs the
	// source's level to dominate.
	rules map[string]string
	// permissive are domains that are permissive by themselves; invalid are types that the policy
	// does not have.
	permissive, invalid map[string]bool
	failExec, failSock  error

	mu    sync.Mutex
	calls []call
}

type call struct {
	what, label string
	thread      int
}

var permissionBits = map[string][]string{
	"process": {"transition"},
	"file":    {"entrypoint", "read", "write", "open"},
}

func newFar(t *testing.T) *far {
	t.Helper()
	f := &far{t: t, root: t.TempDir(), rules: map[string]string{}, permissive: map[string]bool{}, invalid: map[string]bool{}}
	f.write("selinux/enforce", "1")
	f.status(2, 1, 1)
	f.write("proc/filesystems", "nodev\tselinuxfs\n")
	f.write("proc/self/attr/current", "system_u:system_r:cloister_shim_t:s0\x00")
	index := 1
	for class, perms := range permissionBits {
		f.write("selinux/class/"+class+"/index", strconv.Itoa(index))
		index++
		for bit, perm := range perms {
			f.write("selinux/class/"+class+"/perms/"+perm, strconv.Itoa(bit+1))
		}
	}
	return f
}

func (f *far) write(path, text string) {
	f.t.Helper()
	full := filepath.Join(f.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *far) status(sequence, enforcing, loads uint32) {
	page := make([]byte, 0, 20)
	for _, word := range []uint32{1, sequence, enforcing, loads, 0} {
		page = binary.NativeEndian.AppendUint32(page, word)
	}
	f.write("selinux/status", string(page))
}

func (f *far) host() Host {
	return Host{
		Proc: filepath.Join(f.root, "proc"), SELinux: filepath.Join(f.root, "selinux"),
		Transact: f.transact, Thread: f, Peer: f.peer,
	}
}

func (f *far) transact(file, request string) (string, error) {
	fields := strings.Fields(request)
	for _, context := range fields[:min(2, len(fields))] {
		if label, err := labels.Parse(context); err != nil || f.invalid[label.Type] {
			return "", unix.EINVAL
		}
	}
	if file == "context" {
		return request, nil
	}
	source, target := parse(f.t, fields[0]), parse(f.t, fields[1])
	index, flags, allowed := fields[2], 0, 0
	for class, perms := range permissionBits {
		if number, err := os.ReadFile(filepath.Join(f.root, "selinux/class", class, "index")); err != nil || string(number) != index {
			continue
		}
		rule := f.rules[source.Type+" "+target.Type+" "+class]
		granted, constrained := strings.CutSuffix(rule, "!")
		if constrained && !source.Range.High.Dominates(target.Range.High) {
			granted = ""
		}
		for bit, perm := range perms {
			if strings.Contains(" "+granted+" ", " "+perm+" ") {
				allowed |= 1 << bit
			}
		}
	}
	if f.permissive[source.Type] {
		flags = 1
	}
	return fmt.Sprintf("%x ffffffff 0 ffffffff 7 %x", allowed, flags), nil
}

func (f *far) peer(uintptr) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c.what == "socket" && c.label != "" {
			return c.label, nil
		}
	}
	return "", unix.ENOPROTOOPT
}

func (f *far) SetExec(label string) error { return f.record("exec", label, f.failExec) }

func (f *far) SetSocket(label string) error { return f.record("socket", label, f.failSock) }

func (f *far) record(what, label string, fail error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call{what, label, unix.Gettid()})
	if label == "" {
		return nil
	}
	return fail
}

func parse(t *testing.T, text string) labels.Label {
	t.Helper()
	label, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return label
}
