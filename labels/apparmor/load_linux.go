// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Load gives the kernel a profile that it does not have yet: one of that name is ErrExists, and
// stays as it is. The profile confines nobody until a program is started in it (SetExec).
func (h Host) Load(ctx context.Context, p Profile) error {
	text, err := p.Text()
	if err != nil {
		return err
	}
	if err := h.Ready(); err != nil {
		return err
	}
	compiled, err := h.compile(ctx, text)
	if err != nil {
		return fmt.Errorf("compile profile %s: %w", p.Name, err)
	}
	// Unlike .replace, .load refuses a name that is there, in one step with the check.
	err = h.tell(".load", compiled)
	if errors.Is(err, unix.EEXIST) {
		return exists(true, p.Name)
	}
	if err != nil {
		return fmt.Errorf("load profile %s: %w", p.Name, err)
	}
	return nil
}

// exists is ErrExists with the remedy, or nil.
func exists(loaded bool, name string) error {
	if !loaded {
		return nil
	}
	return fmt.Errorf("profile %s: %w and cloister did not load it: when no process needs it, remove it: "+
		"printf %s >/sys/kernel/security/apparmor/.remove", name, ErrExists, name)
}

// Remove takes a profile from the kernel, with its children. One that is not loaded is no error.
// One that confines a process is ErrInUse: the kernel would leave the process unconfined. The
// caller has seen to it that none can be started in the profile while it is removed. Any name but a
// sandbox's is refused, since the journal's folder is where the names come from.
func (h Host) Remove(name string) error {
	if !goodName.MatchString(name) {
		return fmt.Errorf("remove profile %q: want %scN-cM", name, prefix)
	}
	enabled, err := h.Enabled()
	if err != nil || !enabled {
		return err // none is loaded
	}
	loaded, err := h.Loaded(name)
	if err != nil || !loaded {
		return err
	}
	pids, err := h.confined(name)
	if err != nil {
		return fmt.Errorf("remove profile %s: %w", name, err)
	}
	if len(pids) > 0 {
		return fmt.Errorf("remove profile %s: %w: %v", name, ErrInUse, pids)
	}
	err = h.tell(".remove", []byte(name))
	if errors.Is(err, unix.ENOENT) { // somebody was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove profile %s: %w", name, err)
	}
	return nil
}

// tell writes to one of the kernel's files, which take each message in one write.
func (h Host) tell(file string, message []byte) error {
	if h.Tell != nil {
		return h.Tell(file, message)
	}
	f, err := os.OpenFile(h.security(file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(message)
	return errors.Join(err, f.Close())
}

// Loaded tells whether the kernel has a profile of that name, in any mode.
func (h Host) Loaded(name string) (bool, error) {
	all, err := h.Profiles()
	_, found := all[name]
	return found, err
}

// Profiles are the modes of the profiles that are loaded, by name; children are listed as
// "NAME//CHILD". It needs root.
func (h Host) Profiles() (map[string]string, error) {
	text, err := os.ReadFile(h.security("profiles"))
	if err != nil {
		return nil, fmt.Errorf("AppArmor %w: %w: mount securityfs on /sys/kernel/security, and run as root", errNotReadable, err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, mode, err := parse(line)
		if err != nil {
			return nil, err
		}
		all[name] = mode
	}
	return all, nil
}

// parse reads what the kernel says of a profile: its name and, in brackets, its mode. Only what
// runs without a profile has no mode.
func parse(text string) (name, mode string, err error) {
	text = strings.TrimRight(text, "\x00\n")
	if text == "unconfined" {
		return text, "", nil
	}
	head, found := strings.CutSuffix(text, ")")
	at := strings.LastIndex(head, " (")
	if !found || at <= 0 || at+2 == len(head) {
		return "", "", fmt.Errorf("AppArmor profile %q: want NAME (MODE)", text)
	}
	return head[:at], head[at+2:], nil
}

// gone tells that a process or thread has ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
