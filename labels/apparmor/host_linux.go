// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

// Errors that a caller tells apart. ErrDisabled and ErrComplain are the host's state, ErrExists a
// profile that somebody else has loaded, ErrUnconfined a process that must be killed, ErrInUse one
// that must end first.
var (
	ErrDisabled    = errors.New("AppArmor is not enabled on this host")
	ErrComplain    = errors.New("AppArmor is in complain mode, which denies nothing")
	ErrExists      = errors.New("a profile of that name is loaded already")
	ErrUnconfined  = errors.New("process is not confined by its profile")
	ErrInUse       = errors.New("profile confines a running process")
	errNotReadable = errors.New("profiles cannot be read")
)

// Host is where the kernel is asked. The zero value is this machine; tests put files in its place.
// It holds no state; its methods may be called at once.
type Host struct {
	// Proc, Security and Module are /proc, /sys/kernel/security/apparmor and
	// /sys/module/apparmor when empty.
	Proc, Security, Module string
	// Compile turns a profile's text into the kernel's form; nil runs apparmor_parser.
	Compile func(ctx context.Context, text string) ([]byte, error)
	// Tell writes a message to a file below Security; nil writes the kernel's. The message is one
	// write: the kernel takes it as a whole or refuses it.
	Tell func(file string, message []byte) error
	// Enter writes to an attribute of the calling thread; nil writes the kernel's.
	Enter func(text string) error
}

func (h Host) proc(parts ...string) string { return below(h.Proc, "/proc", parts) }

func (h Host) security(parts ...string) string {
	return below(h.Security, "/sys/kernel/security/apparmor", parts)
}

func (h Host) module(parts ...string) string { return below(h.Module, "/sys/module/apparmor", parts) }

// below joins parts below root, or below the usual place if root is empty.
func below(root, usual string, parts []string) string {
	if root == "" {
		root = usual
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// Enabled tells whether the kernel enforces profiles or could. A kernel that does while its sysfs
// does not say so here, as where it is hidden from an engine, is an error: a host with AppArmor is
// never taken for one without.
func (h Host) Enabled() (bool, error) {
	file := h.module("parameters", "enabled")
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("ask AppArmor: %w", err)
	}
	answer := strings.TrimSpace(string(text))
	switch {
	case err == nil && answer == "Y":
		return true, nil
	case err == nil && answer != "N":
		return false, fmt.Errorf("ask AppArmor: %s says %q, want Y or N", file, answer)
	}
	// EINVAL where the kernel has AppArmor and it is off.
	if confined, err := os.ReadFile(h.proc("thread-self", "attr", "apparmor", "current")); err == nil {
		return false, fmt.Errorf("ask AppArmor: it confines this process (%.100q) and %s does not say that it is enabled: "+
			"mount -t sysfs sysfs /sys", strings.TrimSpace(string(confined)), file)
	}
	return false, nil
}

// Ready reports what keeps this host from confining a sandbox, with the remedy; nil is nothing. The
// mode may change at any time: it is asked again before each use. A host that asks for AppArmor and
// cannot have it starts no guest; it never goes on without.
func (h Host) Ready() error {
	enabled, err := h.Enabled()
	if err != nil {
		return err
	}
	if !enabled {
		return fmt.Errorf("%w: boot with apparmor=1 security=apparmor, or leave mac out under [labels]: "+
			"the default uses what the host has", ErrDisabled)
	}
	if err := h.enforcing(); err != nil {
		return err
	}
	if _, err := os.Stat(h.security(".load")); err != nil {
		return fmt.Errorf("AppArmor %w: %w: mount -t securityfs securityfs /sys/kernel/security", errNotReadable, err)
	}
	if h.Compile != nil {
		return nil
	}
	_, err = parser()
	return err
}

// enforcing refuses a kernel that was told to enforce no profile, whatever its own mode. In
// complain mode a denial is a line in the log and the access happens, so a guest would be confined
// by nothing.
func (h Host) enforcing() error {
	text, err := os.ReadFile(h.module("parameters", "mode"))
	if err != nil {
		return fmt.Errorf("ask AppArmor for its mode: %w", err)
	}
	if mode := strings.TrimSpace(string(text)); mode != "enforce" && mode != "kill" {
		// The kernel refuses a line end there.
		file := h.module("parameters", "mode")
		return fmt.Errorf("%w: %s says %q: run: printf enforce >%s", ErrComplain, file, mode, file)
	}
	return nil
}

// parser finds the distribution's compiler of profiles. An engine's PATH may leave out sbin. One
// that another user could replace is an error: it runs as root, and its output is what confines.
func parser() (string, error) {
	const name = "apparmor_parser"
	for _, place := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		path, err := sys.Program(place)
		if err == nil || errors.Is(err, errdefs.ErrPermissionDenied) {
			return path, err
		}
	}
	return "", fmt.Errorf("%s: %w: install the package apparmor, or set mac = \"none\" under [labels]", name, exec.ErrNotFound)
}

// compile turns text into the kernel's form. The parser reads and writes no cache, and loads
// nothing itself: Load does, in one step with the check of the name. Its environment is fixed,
// since an engine's may have a locale or a PATH of its own.
func (h Host) compile(ctx context.Context, text string) ([]byte, error) {
	if h.Compile != nil {
		return h.Compile(ctx, text)
	}
	program, err := parser()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "--skip-cache", "--skip-kernel-load", "--stdout")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(text)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(messages.Bytes()))
	}
	if out.Len() == 0 {
		return nil, fmt.Errorf("%s: no output: %s", program, bytes.TrimSpace(messages.Bytes()))
	}
	return out.Bytes(), nil
}
