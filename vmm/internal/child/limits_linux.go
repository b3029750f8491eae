// SPDX-License-Identifier: Apache-2.0

package child

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// NoCore keeps a process from ever dumping its memory, which is a guest's or holds a guest's files.
// A process of another user, whose limits need CAP_SYS_RESOURCE, has inherited the limit. So the
// limit is read first, and only set where it is missing. It is called while the process cannot have
// been reaped.
func NoCore(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return fmt.Errorf("core limit of pid %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok &&
			slices.Equal(strings.Fields(rest), []string{"0", "0", "bytes"}) {
			return nil
		}
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("core limit of pid %d: %w", pid, err)
	}
	return nil
}

// InheritNothing keeps what is open here, but for what os/exec hands over, from every child to
// come: Go opens nothing else that is inherited, but who started this process may have. A
// descriptor that QEMU inherits is one that its guest has when it breaks out. It is called before
// each start.
func InheritNothing() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close on exec: %w", err)
	}
	return nil
}
