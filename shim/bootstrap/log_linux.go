// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLogFile bounds a log that is a file, in bytes. What the guest does must not fill the disk.
const maxLogFile = 1 << 20

// logPipe writes to stderr, the bundle's log. Nobody may be reading a FIFO: when the pipe is full,
// lines are dropped and counted, since a logger that blocks would hold up every call. Nobody
// empties a file: when it is full, it begins anew.
type logPipe struct {
	mu      sync.Mutex
	dropped int
}

// Write takes one line and always says that it was written: logrus would print an error for each
// otherwise. The count of dropped lines goes first once there is room again.
func (p *logPipe) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(unix.Stderr, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > maxLogFile {
		_ = unix.Ftruncate(unix.Stderr, 0) // else it grows on
	}
	if p.dropped > 0 {
		if !writeStderr(fmt.Appendf(nil, "level=warning msg=\"%d log lines dropped: nobody read them\"\n", p.dropped)) {
			p.dropped++
			return len(line), nil
		}
		p.dropped = 0
	}
	if !writeStderr(line) {
		p.dropped++
	}
	return len(line), nil
}

// writeStderr writes all of b, or says that it could not; the descriptor does not block.
func writeStderr(b []byte) bool {
	for len(b) > 0 {
		n, err := unix.Write(unix.Stderr, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false
		default:
			b = b[n:]
		}
	}
	return true
}

// stacks is every goroutine's stack, cut at 1 MiB, for SIGUSR1.
func stacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}
