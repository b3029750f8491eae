// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sys"
)

const (
	// maxEntropy is what the kernel takes from RNDADDENTROPY at once.
	maxEntropy = 512
	randomPath = "/dev/random"
	sysctlRoot = "/proc/sys"
)

// setTime sets the wall clock, in nanoseconds since 1970; zero leaves it.
func setTime(unixNano int64) error {
	if unixNano == 0 {
		return nil
	}
	ts := unix.NsecToTimespec(unixNano)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// addEntropy credits random bytes: struct rand_pool_info of random(4). The bytes come from the
// host's generator, so all of them count: without the credit, early reads of the guest's pool would
// block or be predictable.
func addEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	if len(seed) > maxEntropy {
		return fmt.Errorf("entropy of %d bytes: %w", len(seed), errdefs.ErrInvalidArgument)
	}
	size := uint32(len(seed))
	info := binary.NativeEndian.AppendUint32(nil, 8*size)
	info = binary.NativeEndian.AppendUint32(info, size)
	info = append(info, seed...)
	f, err := os.OpenFile(randomPath, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY,
		uintptr(unsafe.Pointer(&info[0]))) //nolint:gosec // the ioctl takes a pointer
	if errno != 0 {
		return errors.Join(fmt.Errorf("add entropy: %w", errno), f.Close())
	}
	return f.Close()
}

// setHostname sets the name of the sandbox's uts namespace, which containers share; empty leaves
// the kernel's.
func setHostname(name string) error {
	if name == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set hostname %q: %w", name, err)
	}
	return nil
}

// setSysctls sets those of the guest. An ipc namespace of another user namespace takes its own from
// the root there alone. They are in no order, as with runc: a map has none.
func setSysctls(values map[string]string, users guestapi.UserNamespace) error {
	for name, value := range values {
		path, err := sysctlPath(name)
		if err != nil {
			return err
		}
		write := func() error { return os.WriteFile(path, []byte(value), 0) }
		err = write()
		// The agent is root of the first user namespace, and for a few of them the kernel wants the
		// owner of the ipc namespace.
		if errors.Is(err, os.ErrPermission) && !users.IsZero() {
			err = asRoot(users, write)
		}
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	return nil
}

// asRoot runs f as the containers' root. Only the effective id of one thread changes, which is what
// the kernel compares; the thread is never used again.
func asRoot(users guestapi.UserNamespace, f func() error) error {
	uid, _ := users.Root()
	return sys.OnThread(func() error {
		const same = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 { // x/sys would change all threads
			return errno
		}
		return f()
	})
}

// sysctlPath takes the forms of sysctl(8): where the first separator is a dot,
// a slash stands for a dot in a name (net.ipv4.conf.eth0/100).
func sysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if path == "" || !filepath.IsLocal(path) {
		return "", fmt.Errorf("sysctl %q: %w", name, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(sysctlRoot, path), nil
}

// mountShare mounts the host's files. Only the containers' binds of it have options of their own.
func mountShare(tag string) error {
	if tag == "" {
		return nil
	}
	if err := os.MkdirAll(guestapi.Share, folderMode); err != nil {
		return fmt.Errorf("make folder of the share: %w", err)
	}
	if err := unix.Mount(tag, guestapi.Share, "virtiofs", 0, ""); err != nil {
		return fmt.Errorf("mount share %s: %w", tag, err)
	}
	return nil
}
