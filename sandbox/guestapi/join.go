// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"encoding/binary"
	"io"
)

// joiner sends a frame's header and its body as one. yamux writes them one after the other, from
// one goroutine; each write to a virtio-serial port is a system call, a request in its ring and an
// exit to the host. It is not safe for concurrent use, and need not be.
type joiner struct {
	io.ReadWriteCloser
	held  bool
	frame []byte // header and body; as large as the largest frame
}

// Write takes a header whose body follows as written.
func (j *joiner) Write(p []byte) (int, error) {
	if j.held {
		j.held = false
		j.frame = append(j.frame, p...)
		n, err := j.ReadWriteCloser.Write(j.frame)
		return max(0, n-frameHeader), err
	}
	if len(p) == frameHeader && p[1] == frameData && binary.BigEndian.Uint32(p[8:]) > 0 {
		j.held = true
		j.frame = append(j.frame[:0], p...)
		return len(p), nil
	}
	return j.ReadWriteCloser.Write(p)
}
