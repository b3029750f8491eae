// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"strings"
	"sync"
)

// tailBytes bounds what of a hook's output shows up in its error.
const tailBytes = 2048

// tail keeps the end of what is written to it. A hook may write without end, and the shim's memory
// must not grow. It is safe for concurrent use: after the wait for output has ended, a copy may
// still go on.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

// Write takes everything.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if n > tailBytes {
		p, t.cut = p[n-tailBytes:], true
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf, t.cut = append(t.buf[:0], t.buf[over:]...), true
	}
	return n, nil
}

// String gives the end on one line. Bytes that are no UTF-8 are replaced: the text goes into an
// error of gRPC.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(t.buf), "?")), " ")
	if t.cut {
		return "..." + s
	}
	return s
}
