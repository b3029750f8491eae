// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Selinuxfs is the kernel's, asked through the file system of SELinux. The zero value asks at
// /sys/fs/selinux. Its methods may be called at once: each question has a descriptor of its own.
type Selinuxfs struct {
	Root string
}

// permissiveFlag is SELINUX_AVD_FLAGS_PERMISSIVE of the kernel's
// security/selinux/include/security.h.
const permissiveFlag = 1

// Allowed asks /sys/fs/selinux/access: the question is written, and the answer read from the same
// descriptor. Nothing is logged as a denial. A class or permission that the policy has not is an
// error that wraps fs.ErrNotExist.
func (s Selinuxfs) Allowed(source, target, class, permission string) (Answer, error) {
	index, err := s.number("class", class, "index")
	if err != nil {
		return Answer{}, err
	}
	bit, err := s.number("class", class, "perms", permission)
	if err != nil {
		return Answer{}, err
	}
	if bit == 0 || bit > 32 {
		return Answer{}, fmt.Errorf("permission %s of class %s: number is %d, want 1 to 32", permission, class, bit)
	}
	file, err := os.OpenFile(s.path("access"), os.O_RDWR, 0)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = file.Close() }()
	if _, err := fmt.Fprintf(file, "%s %s %d", source, target, index); err != nil {
		return Answer{}, fmt.Errorf("%w: is the context %s or %s unknown to the policy? cloister policy install", err, source, target)
	}
	text := make([]byte, 256)
	n, err := file.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Answer{}, err
	}
	return parseAnswer(string(text[:n]), uint(bit-1))
}

// parseAnswer reads allowed, decided, auditallow, auditdeny, sequence number, flags: the masks are
// hexadecimal.
func parseAnswer(text string, bit uint) (Answer, error) {
	fields := strings.Fields(text)
	if len(fields) < 6 {
		return Answer{}, fmt.Errorf("answer %q of the kernel has no six fields", text)
	}
	allowed, err := strconv.ParseUint(fields[0], 16, 32)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q of the kernel: %w", text, err)
	}
	flags, err := strconv.ParseUint(fields[5], 16, 32)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q of the kernel: %w", text, err)
	}
	return Answer{Allowed: allowed&(1<<bit) != 0, Permissive: flags&permissiveFlag != 0}, nil
}

// number reads the number that the loaded policy has for a class or permission; it changes with
// each load.
func (s Selinuxfs) number(parts ...string) (uint64, error) {
	text, err := os.ReadFile(s.path(parts...))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
}

// path is a file of selinuxfs.
func (s Selinuxfs) path(parts ...string) string {
	root := s.Root
	if root == "" {
		root = "/sys/fs/selinux"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}
