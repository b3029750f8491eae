// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// AwaitHangUp waits until the other end of a socket has gone altogether; one that has only said its
// last word, and may still read, has not. Closing conn ends it as well. It keeps others from
// reading conn meanwhile. A read would not tell: it gives EOF for a half-close as well, and takes
// bytes that another reader wants.
func AwaitHangUp(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(polled, 0)
		return err == nil && polled[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}
