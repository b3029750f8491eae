// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Inotify is an instance of inotify, whose Close and deadlines end a read. Who only wants to know
// that something has changed may Read bytes and drop them; Next decodes them.
type Inotify struct{ *os.File }

// NewInotify opens an instance that watches nothing yet. The error names the sysctl to raise.
func NewInotify() (Inotify, error) {
	// Nonblocking, so that Go's poller waits.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return Inotify{}, fmt.Errorf("inotify: raise fs.inotify.max_user_instances: %w", err)
	}
	return Inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

// Add watches an open file, whatever its name leads to by now. A file that is watched already keeps
// its watch; mask replaces its events unless it has IN_MASK_ADD. f may be closed afterwards. The
// error for too many watches names the sysctl to raise.
func (i Inotify) Add(f *os.File, mask uint32) (watch int, err error) {
	defer runtime.KeepAlive(f) // the call has only its number
	controlled := i.control(func(fd int) { watch, err = unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), mask) })
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("raise fs.inotify.max_user_watches: %w", err)
	}
	return watch, errors.Join(controlled, err)
}

// Remove ends a watch, which may be gone already with its file.
func (i Inotify) Remove(watch int) {
	_ = i.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(watch)) })
}

// control lends the descriptor: File.Fd would have reads block.
func (i Inotify) control(f func(fd int)) error {
	raw, err := i.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// Next waits for events, and calls each for every one. 64 KiB hold hundreds of events; a single one
// has at most 16 bytes and a name of 255.
func (i Inotify) Next(each func(watch int, mask uint32, name string) error) error {
	buf := make([]byte, 64<<10)
	n, err := i.Read(buf)
	for b := buf[:n]; err == nil && len(b) >= unix.SizeofInotifyEvent; {
		watch, mask, size := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		b = b[unix.SizeofInotifyEvent+size:]
		err = each(int(watch), mask, string(name))
	}
	return err
}
