// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cloister/labels"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// ErrDisabled is wrapped when SELinux was asked for and is not enabled. No label is written then:
// attr/exec would give EINVAL, or reach another security module.
var ErrDisabled = errors.New("SELinux is not enabled on this host")

// Host is where the kernel is asked. The zero value is this machine; tests put a far end of their
// own in its place. It holds no state: each method asks anew and may be called at once.
type Host struct {
	// Proc and SELinux are /proc and /sys/fs/selinux when empty.
	Proc, SELinux string
	// Transact writes a request to a file below SELinux and reads the answer; nil asks the kernel.
	Transact func(file, request string) (string, error)
	// Program gives the label of a program; nil reads the file.
	Program func(path string) (labels.Label, error)
	// Peer gives SO_PEERSEC of a socket; nil asks the kernel.
	Peer func(fd uintptr) (string, error)
	// Thread sets attributes of the calling thread; nil sets the kernel's.
	Thread ThreadAttributes
}

// ThreadAttributes are set on the calling thread, which the caller has locked. Empty text takes the
// attribute back. An error means that the thread's state is not known: the thread is not used
// again.
type ThreadAttributes interface {
	SetExec(label string) error
	SetSocket(label string) error
}

// kernelThread writes attr/exec and attr/sockcreate of the thread, through go-selinux.
type kernelThread struct{}

func (kernelThread) SetExec(label string) error   { return selinux.SetExecLabel(label) }
func (kernelThread) SetSocket(label string) error { return selinux.SetSocketLabel(label) }

// thread is the kernel's attributes unless a test has put others there.
func (h Host) thread() ThreadAttributes {
	if h.Thread != nil {
		return h.Thread
	}
	return kernelThread{}
}

// proc is a path below /proc.
func (h Host) proc(parts ...string) string {
	root := h.Proc
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// selinux is a path below selinuxfs.
func (h Host) selinux(parts ...string) string {
	root := h.SELinux
	if root == "" {
		root = "/sys/fs/selinux"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// Enabled tells whether the kernel labels. A kernel that does while its file system is not mounted
// is an error: nobody could tell whether it enforces.
func (h Host) Enabled() (bool, error) {
	_, err := os.ReadFile(h.selinux("enforce"))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("ask SELinux: %w", err)
	}
	systems, err := os.ReadFile(h.proc("filesystems"))
	if err != nil {
		return false, fmt.Errorf("ask SELinux: %w", err)
	}
	if strings.Contains(string(systems), "\tselinuxfs\n") {
		return false, fmt.Errorf("ask SELinux: the kernel has it enabled and %s is not mounted: mount -t selinuxfs selinuxfs %s",
			h.selinux(), h.selinux())
	}
	return false, nil
}

// Enforcing tells whether the kernel denies; false where SELinux is not enabled. It is the mode of
// the host: a domain can be permissive by itself all the same (Access tells).
func (h Host) Enforcing() (bool, error) {
	enabled, err := h.Enabled()
	if err != nil || !enabled {
		return false, err
	}
	mode, err := os.ReadFile(h.selinux("enforce"))
	if err != nil {
		return false, fmt.Errorf("ask SELinux: %w", err)
	}
	return strings.TrimSpace(string(mode)) == "1", nil
}

// Status is the kernel's status page. A caller compares two of them to see whether what it asked
// before still holds.
type Status struct {
	// Sequence changes with every load of a policy and every change of the mode.
	Sequence uint32
	// PolicyLoads counts the policies loaded since boot.
	PolicyLoads uint32
	Enforcing   bool
	// DenyUnknown is whether classes that the policy does not know are denied.
	DenyUnknown bool
}

// Status reads the page until it holds still: the kernel makes Sequence odd while it writes. 100
// tries bound the loop where the page never does.
func (h Host) Status() (Status, error) {
	const size, tries = 20, 100 // struct selinux_kernel_status: five words of 32 bits
	for range tries {
		page, err := os.ReadFile(h.selinux("status"))
		if err != nil {
			return Status{}, fmt.Errorf("read SELinux's status: %w", err)
		}
		if len(page) < size {
			return Status{}, fmt.Errorf("read SELinux's status: %d bytes, want %d", len(page), size)
		}
		word := func(i int) uint32 { return binary.NativeEndian.Uint32(page[4*i:]) }
		if word(1)%2 == 0 { // odd while the kernel writes
			return Status{Sequence: word(1), Enforcing: word(2) != 0, PolicyLoads: word(3), DenyUnknown: word(4) != 0}, nil
		}
	}
	return Status{}, fmt.Errorf("read SELinux's status: it changed during each of %d reads", tries)
}

// Boolean gives the value of a policy boolean, and whether this policy has it. A boolean that a
// policy lacks is no error: names differ between distributions. Of "current pending", current
// counts.
func (h Host) Boolean(name string) (value, known bool, err error) {
	if name == "" || strings.ContainsAny(name, "/.") {
		return false, false, fmt.Errorf("boolean %q is not a policy name", name)
	}
	text, err := os.ReadFile(h.selinux("booleans", name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("boolean %s: %w", name, err)
	}
	return strings.HasPrefix(string(text), "1"), true, nil
}

// transact is one question and answer on one descriptor, as selinuxfs wants it: a write starts the
// transaction, a read on the same descriptor gives its answer. The answer fits a page.
func (h Host) transact(file, request string) (string, error) {
	if h.Transact != nil {
		return h.Transact(file, request)
	}
	fd, err := unix.Open(h.selinux(file), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: h.selinux(file), Err: err}
	}
	f := os.NewFile(uintptr(fd), h.selinux(file))
	defer f.Close() // nothing is buffered
	if _, err := f.WriteString(request); err != nil {
		return "", err
	}
	answer := make([]byte, os.Getpagesize())
	n, err := f.Read(answer)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(answer[:n]), "\x00\n"), nil
}
