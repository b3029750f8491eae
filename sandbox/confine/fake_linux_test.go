// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/lsm"
)

// kernelOf are the classes and permissions that the fake kernel knows, by number.
func kernelOf() map[string][]string {
	return map[string][]string{
		"process": {
			"transition", "ptrace", "sigkill", "sigstop", "signal", "setsched", "getsched", "setrlimit",
			"getattr", "getcap", "setcap", "setpgid", "share",
			"setcurrent", "setexec",
		},
		"file":               {"read", "write", "append", "setattr", "unlink", "entrypoint", "open", "map", "getattr"},
		"blk_file":           {"read", "write", "append", "ioctl"},
		"chr_file":           {"open"},
		"dir":                {"search", "read", "write", "add_name", "remove_name"},
		"lnk_file":           {"read", "unlink"},
		"fifo_file":          {"read", "write", "append"},
		"unix_stream_socket": {"connectto", "read", "write"},
		"unix_dgram_socket":  {"sendto", "read", "write"},
		"shm":                {"read", "write", "unix_read", "unix_write"},
		"sem":                {"read", "write", "unix_read", "unix_write"},
		"msgq":               {"read", "write", "unix_read", "unix_write"},
		"key":                {"read", "write", "search"},
	}
}

// fake is a kernel that enforces cloister's policy in short: a domain may use files of its own type
// at its own level.
type fake struct {
	t    *testing.T
	root string

	mu    sync.Mutex
	calls []string // labels that were set and cleared
	peer  string   // label of all sockets' other ends
	files bool     // whether the policy lets machines write images: false breaks it
	share sharing  // whether it lets them map a template's memory
}

// sharing is what a policy has for a template's memory: nothing, as modules from before, the type
// alone, or QEMU's right to it.
type sharing int

const (
	shareNothing sharing = iota
	shareType
	shareMemory
)

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, root: t.TempDir(), files: true}
	f.write("selinux/enforce", "1")
	f.write("proc/self/attr/current", "system_u:system_r:cloister_shim_t:s0-s0:c0.c1023")
	f.write("program", "")
	page := make([]byte, 0, 20)
	for _, word := range []uint32{1, 2, 1, 1, 0} {
		page = binary.NativeEndian.AppendUint32(page, word)
	}
	f.write("selinux/status", string(page))
	for class, perms := range kernelOf() {
		f.write("selinux/class/"+class+"/index", strconv.Itoa(number(class)))
		for bit, perm := range perms {
			f.write("selinux/class/"+class+"/perms/"+perm, strconv.Itoa(bit+1))
		}
	}
	return f
}

func number(class string) int {
	return slices.Index([]string{
		"process", "file", "blk_file", "chr_file", "dir", "unix_stream_socket", "lnk_file", "fifo_file",
		"unix_dgram_socket", "shm", "sem", "msgq", "key",
	}, class) + 1
}

func (f *fake) write(path, text string) {
	f.t.Helper()
	full := filepath.Join(f.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(text), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// process makes a process of one thread.
func (f *fake) process(pid int, label string) {
	f.t.Helper()
	at := fmt.Sprintf("proc/%d/", pid)
	f.write(at+"attr/current", label)
	f.write(fmt.Sprintf("%stask/%d/attr/current", at, pid), label)
	_ = os.Remove(filepath.Join(f.root, at, "exe"))
	if err := os.Symlink(f.program(), filepath.Join(f.root, at, "exe")); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) program() string { return filepath.Join(f.root, "program") }

func (f *fake) host() lsm.Host {
	return lsm.Host{
		Proc: filepath.Join(f.root, "proc"), SELinux: filepath.Join(f.root, "selinux"), Transact: f.transact, Thread: f,
		Peer:    func(uintptr) (string, error) { return f.peer, nil },
		Program: func(string) (labels.Label, error) { return labels.Parse("system_u:object_r:qemu_exec_t:s0") },
	}
}

func (f *fake) transact(file, request string) (string, error) {
	fields := strings.Fields(request)
	for _, text := range fields[:min(2, len(fields))] {
		known := []string{"qemu_exec_t", "tmpfs_t"}
		l, err := labels.Parse(text)
		if err != nil || !strings.HasPrefix(l.Type, "cloister_") && !slices.Contains(known, l.Type) ||
			l.Type == templateType && f.share == shareNothing {
			return "", unix.EINVAL
		}
	}
	if file == "context" {
		return request, nil
	}
	source, target := label(f.t, fields[0]), label(f.t, fields[1])
	if file == "create" {
		return "system_u:object_r:cloister_qemu_tmpfs_t:" + target.Range.String(), nil
	}
	allowed := 0
	for class, perms := range kernelOf() {
		if strconv.Itoa(number(class)) != fields[2] {
			continue
		}
		for bit, perm := range perms {
			if f.allows(source, target, class, perm) {
				allowed |= 1 << bit
			}
		}
	}
	return fmt.Sprintf("%x ffffffff 0 ffffffff 7 0", allowed), nil
}

func (f *fake) allows(source, target labels.Label, class, perm string) bool {
	switch {
	case perm == "transition":
		return source.Type == "cloister_shim_t"
	case perm == "entrypoint":
		return target.Type == "qemu_exec_t"
	case target.Type == templateType:
		return f.share == shareMemory && source.Type == "cloister_qemu_t" && target.Range == labels.At(labels.Level{})
	case class == "process", class == "unix_stream_socket", class == "chr_file", source.Range.High != target.Range.High:
		return false
	}
	return f.files && target.Type == map[string]string{
		"cloister_qemu_t":      "cloister_image_t",
		"cloister_virtiofsd_t": "cloister_rootfs_t",
	}[source.Type]
}

func (f *fake) SetExec(text string) error   { return f.note("exec " + text) }
func (f *fake) SetSocket(text string) error { return f.note("socket " + text) }

func (f *fake) note(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.TrimSpace(call))
	return nil
}

func label(t *testing.T, text string) labels.Label {
	t.Helper()
	l, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
