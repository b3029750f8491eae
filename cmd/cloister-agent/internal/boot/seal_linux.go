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
// container writes to it by /proc/PID/exe, and then starts again.
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
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return "", errors.Join(fmt.Errorf("seal runtime: %w", err), unix.Close(fd))
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), os.Remove(path)
}
