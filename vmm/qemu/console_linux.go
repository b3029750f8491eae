// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"io"
	"os"
	"sync"

	"cloister/vmm/internal/child"
)

// consoleTail is how much of the console stays in memory and survives when the
// log starts over.
const consoleTail = 16 << 10

// console keeps what the guest writes to its serial line: the tail in memory, and
// all of it in a log that starts over with the tail when it is full.
type console struct {
	in   io.ReadCloser
	max  int
	done chan struct{}

	mu   sync.Mutex
	log  *os.File
	size int
	tail *ring
}

// newConsole reads in until it ends, in a goroutine whose end done tells. log may
// be nil; close closes it.
func newConsole(in io.ReadCloser, log *os.File, maxBytes int) *console {
	size := 0
	if log != nil {
		if info, err := log.Stat(); err == nil {
			size = int(info.Size())
		}
	}
	c := &console{size: size, in: in, log: log, max: maxBytes, tail: newRing(min(consoleTail, maxBytes/2)), done: make(chan struct{})}
	go c.read()
	return c
}

func (c *console) read() {
	defer close(c.done)
	buf := make([]byte, 8<<10)
	for {
		n, err := c.in.Read(buf)
		c.keep(buf[:n])
		if err != nil {
			return
		}
	}
}

// keep appends b; a log that cannot be written is given up, the tail goes on.
func (c *console) keep(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log != nil && c.append(b) != nil {
		c.log = nil
	}
	_, _ = c.tail.Write(b)
}

func (c *console) append(b []byte) error {
	if c.size+len(b) > c.max {
		if err := c.log.Truncate(0); err != nil {
			return err
		}
		if _, err := c.log.Seek(0, io.SeekStart); err != nil {
			return err
		}
		tail := c.tail.Bytes()
		note := fmt.Sprintf("[log was full at %d bytes and starts over]\n", c.size)
		c.size = 0
		b = append(append([]byte(note), tail...), b...)
		b = b[max(0, len(b)-c.max):]
	}
	n, err := c.log.Write(b)
	c.size += n
	return err
}

// close releases the log; only after done.
func (c *console) close() {
	_ = c.in.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.log.Close()
	c.log = nil
}

// lastLines returns the console's end, fit for an error.
func (c *console) lastLines() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return child.LastLines(c.tail.Bytes(), 20, 4096)
}
