// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Limits are resource limits that a process can lower and not raise. A limit on the number of
// processes is not among them: it counts all processes of a user, and sandboxes that share a level
// share the user. The pids controller of the sandbox's cgroup counts instead. The core limit is in
// force whatever the fields say.
type Limits struct {
	// FileBytes bounds the size of every file that the process writes or makes, shared memory
	// included; 0: no limit.
	FileBytes uint64
	// NoLocked forbids locked memory.
	NoLocked bool
}

// limit is one resource limit, by number and by its name in /proc/PID/limits. Every process of a
// jail has the core limit 0: its memory has what is a guest's.
type limit struct {
	resource int
	name     string
	most     uint64
}

// list is both what Start sets and what Verify reads back, so that neither can forget one.
func (l Limits) list() []limit {
	out := []limit{{unix.RLIMIT_CORE, "Max core file size", 0}}
	if l.NoLocked {
		out = append(out, limit{unix.RLIMIT_MEMLOCK, "Max locked memory", 0})
	}
	if l.FileBytes > 0 {
		out = append(out, limit{unix.RLIMIT_FSIZE, "Max file size", l.FileBytes})
	}
	return out
}

// limitFrom sets the limits of a running process. The calling thread takes on the process's user
// first: a limit of another user's process can be set with CAP_SYS_RESOURCE alone, which an engine
// may not have. They are set from outside, since limits that the shim's thread had before the fork
// would hold for the shim as well.
func (l Limits) limitFrom(pid int, o Owner) error {
	return sys.OnThread(func() error {
		// Of the process's own user prlimit asks for no capability.
		if o.ID != 0 {
			if err := become(o.ID); err != nil {
				return fmt.Errorf("limits of pid %d: %w", pid, err)
			}
		}
		for _, one := range l.list() {
			if err := lower(pid, one); err != nil {
				return err
			}
		}
		return nil
	})
}

// become gives the calling thread, and no other, another user and group. The raw calls change one
// thread; the library's change all of the shim's. The group goes first, since the user may not
// change it afterwards.
func become(id uint32) error {
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
			return fmt.Errorf("become user %d: %w", id, errno)
		}
	}
	return nil
}

// lower sets a limit unless the process has a lower one. Raising one takes CAP_SYS_RESOURCE, which
// an engine may lack.
func lower(pid int, l limit) error {
	var have unix.Rlimit
	if err := unix.Prlimit(pid, l.resource, nil, &have); err != nil {
		return fmt.Errorf("%s of pid %d: %w", l.name, pid, err)
	}
	if have.Max <= l.most && have.Cur <= l.most {
		return nil
	}
	most := min(have.Max, l.most)
	if err := unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: min(have.Cur, most), Max: most}, nil); err != nil {
		return fmt.Errorf("%s of pid %d: set %d: %w", l.name, pid, most, err)
	}
	return nil
}

// AllowFile raises the file size limit of a running process to at least size bytes, for a file that
// it gets later. Raising it takes CAP_SYS_RESOURCE. It is for a disk that is added to a running
// machine and is larger than all before.
func AllowFile(pid int, size uint64) error {
	var have unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &have)
	if err == nil && have.Cur < size {
		err = unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: max(size, have.Max)}, nil)
	}
	if err != nil {
		return fmt.Errorf("raise the file size limit of pid %d to %d bytes: %w: give the engine CAP_SYS_RESOURCE, or name %q "+
			"in jail.disable", pid, size, err, RLimits)
	}
	return nil
}

// check reads the limits back. A limit that is lower than wanted is no escape: the engine may have
// been started with it.
func (l Limits) check(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err == nil {
		err = l.compare(string(text))
	}
	if err != nil {
		return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
	}
	return nil
}

// compare compares the text of /proc/PID/limits with the limits.
func (l Limits) compare(text string) error {
	for _, want := range l.list() {
		soft, hard, err := parseLimit(text, want.name)
		if err != nil {
			return err
		}
		if soft > want.most || hard > want.most {
			return fmt.Errorf("%w: %s is %d, at most %d, want at most %d", ErrEscaped, want.name, soft, hard, want.most)
		}
	}
	return nil
}

// parseLimit finds a limit in the text of /proc/PID/limits. A name may be a prefix of nothing else
// in that text; the columns after it are soft limit, hard limit and unit.
func parseLimit(text, name string) (soft, hard uint64, err error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			break
		}
		if soft, err = limitValue(fields[0]); err == nil {
			hard, err = limitValue(fields[1])
		}
		return soft, hard, err
	}
	return 0, 0, fmt.Errorf("%s: not among the limits", name)
}

// limitValue reads a limit as the kernel writes it.
func limitValue(word string) (uint64, error) {
	if word == "unlimited" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(word, 10, 64)
}
