// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SealRuntime moves the OCI runtime into memory that nobody can write, and
// gives the path to start it by, which holds until the guest ends. crun copies
// itself into such memory each time it is started from anywhere else, lest a
// container writes to it by /proc/PID/exe, and then starts again. The image's file is removed: it
// would be held in memory twice, since the initial image is the guest's memory.
func SealRuntime(path string) (string, error) {
	from, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("seal runtime: %w", err)
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return "", fmt.Errorf("seal runtime: %w", err)
	}
	fd, err := unix.MemfdCreate("crun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return "", fmt.Errorf("seal runtime: make memory: %w", err)
	}
	// Sendfile copies in the kernel: crun is larger than what the agent wants to have on its heap.
	for left := int(info.Size()); left > 0; {
		n, err := unix.Sendfile(fd, int(from.Fd()), nil, left)
		if err == nil && n == 0 {
			err = errors.New("file ends early")
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("seal runtime: copy: %w", err), unix.Close(fd))
		}
		left -= n
	}
	// F_SEAL_SEAL keeps anybody from adding or taking seals later; crun skips its own copy only for
	// memory with these seals.
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return "", errors.Join(fmt.Errorf("seal runtime: %w", err), unix.Close(fd))
	}
	// The descriptor stays open on purpose. "self" would be crun's own folder in /proc, so the path
	// has the agent's pid.
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), os.Remove(path)
}
