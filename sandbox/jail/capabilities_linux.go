// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Bits of linux/securebits.h. Each has its lock in the next higher bit.
const (
	noRoot           = 1 << 0
	noSetuidFixup    = 1 << 2
	keepCapsLocked   = 1 << 5
	noAmbientRaise   = 1 << 6
	unprivilegedBits = noRoot | noRoot<<1 | noSetuidFixup | noSetuidFixup<<1 | keepCapsLocked | noAmbientRaise | noAmbientRaise<<1
)

// Set is a set of capabilities, one bit each, as /proc/PID/status writes it.
type Set uint64

// NewSet is the set of these capabilities (unix.CAP_CHOWN, ...). None gives the empty set, which
// bound treats as "no program gets any".
func NewSet(capabilities ...int) Set {
	var s Set
	for _, c := range capabilities {
		s |= 1 << c
	}
	return s
}

// String writes the set as the kernel does.
func (s Set) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// bound limits what a program that the calling thread starts can have to the set. The thread keeps
// its own capabilities. With the empty set no program gets any, be it root's or setuid, and the
// securebits that say so are locked. It changes the calling thread for good, so that thread must
// start the program and nothing else. The bounding set can only shrink, and an exec cannot go
// around it.
func (s Set) bound() error {
	// The kernel's own last capability ends the loop: a newer kernel has more than this program's
	// headers, and all of them must go.
	for c := range 64 {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // one more than this kernel knows
		}
		if err != nil {
			return fmt.Errorf("read capability %d of the bounding set: %w", c, err)
		}
		if has == 0 || s&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w: the shim needs CAP_SETPCAP", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	// Inheritable capabilities would survive root's exec in spite of the bounding set.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	// A server's root must get its capabilities at the exec, which noRoot would forbid.
	if s != 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, unprivilegedBits, 0, 0, 0); err != nil {
		return fmt.Errorf("lock securebits: %w: the shim needs CAP_SETPCAP", err)
	}
	return nil
}
