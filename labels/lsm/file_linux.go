// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// fileAttribute is where every file system keeps SELinux's label (XATTR_NAME_SELINUX).
const fileAttribute = "security.selinux"

// Errors of labels on files.
var (
	// ErrNoLabel means that a file carries no label of its own; the kernel then uses its file
	// system's.
	ErrNoLabel = errors.New("file carries no label")
	// ErrUnsupported means that the file system takes no labels.
	ErrUnsupported = errors.New("file system takes no labels")
)

// FileLabel is the label that an open file carries; a descriptor opened with O_PATH will do. A
// label of another form, as of a policy without levels, is an error.
func FileLabel(f *os.File) (labels.Label, error) {
	text, err := RawFileLabel(f)
	if err != nil {
		return labels.Label{}, err
	}
	label, err := labels.Parse(text)
	if err != nil {
		return labels.Label{}, fmt.Errorf("label of %s: %w", f.Name(), err)
	}
	return label, nil
}

// PathLabel is the label of what is at path, without opening it: a FIFO does not block and a device
// does not wake. Links are followed.
func PathLabel(path string) (labels.Label, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return labels.Label{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // O_PATH
	return FileLabel(f)
}

// RawFileLabel is the label as it is written on the file, be it one this host's policy knows or
// not. A file from another host must get back exactly what it had. ErrNoLabel and ErrUnsupported
// are told apart, as only the former can be labelled.
func RawFileLabel(f *os.File) (string, error) {
	// The kernel takes a context of at most a page.
	buffer := make([]byte, 4096)
	n, err := unix.Getxattr(descriptorPath(f), fileAttribute, buffer)
	switch {
	case errors.Is(err, unix.ENODATA):
		return "", fmt.Errorf("label of %s: %w", f.Name(), ErrNoLabel)
	case errors.Is(err, unix.EOPNOTSUPP):
		return "", fmt.Errorf("label of %s: %w", f.Name(), ErrUnsupported)
	case err != nil:
		return "", &fs.PathError{Op: "read the label of", Path: f.Name(), Err: err}
	}
	return strings.TrimRight(string(buffer[:n]), "\x00"), nil
}

// SetRawFileLabel writes a label on the file that a descriptor stands for; O_PATH will do, links
// are not followed. Empty text removes the label, which gives a file back that had none. It does
// not read back: not every label that is given back is one that the policy knows.
func SetRawFileLabel(f *os.File, label string) error {
	var err error
	if label == "" {
		if err = unix.Removexattr(descriptorPath(f), fileAttribute); errors.Is(err, unix.ENODATA) {
			err = nil
		}
	} else {
		err = unix.Setxattr(descriptorPath(f), fileAttribute, []byte(label), 0)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("label %s: %w", f.Name(), ErrUnsupported)
	}
	if err != nil {
		return &fs.PathError{Op: "label", Path: f.Name(), Err: err}
	}
	return nil
}

// SetFileLabel writes a label on an open file and reads it back: what counts is what the kernel
// will use.
func SetFileLabel(f *os.File, label labels.Label) error {
	if label.IsZero() {
		return fmt.Errorf("label %s: %w: it is empty", f.Name(), ErrInvalid)
	}
	if err := SetRawFileLabel(f, label.String()); err != nil {
		return err
	}
	got, err := FileLabel(f)
	if err != nil {
		return err
	}
	if got != label {
		return fmt.Errorf("%w: %s reads back as %v, want %v", ErrWrongLabel, f.Name(), got, label)
	}
	return nil
}

// descriptorPath names what a descriptor stands for, whatever has happened to its path; only so
// does O_PATH take attributes: fgetxattr and fsetxattr refuse such a descriptor with EBADF.
func descriptorPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
