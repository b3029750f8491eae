// SPDX-License-Identifier: Apache-2.0

package content

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// calm is how long a writer may go on before the files are read: a guest that can write to them
// raises as many events as it likes.
const calm = 50 * time.Millisecond

// pollEvery is how often the files are compared on a host that has no watch left for them.
const pollEvery = 5 * time.Second

// Changes tells when an engine writes to files that were copied: into the file that was there, or
// by putting another in its place. It has one inotify instance for a whole sandbox, since a host
// has few of them (128 for all of root's processes by default). Without one, or without a watch, it
// has the files compared every few seconds. Follow and Forget may be called at once.
type Changes struct {
	changed func()
	polls   func(error)
	every   time.Duration
	ended   chan struct{}
	end     sync.Once // closes ended
	begin   sync.Once // begins to poll
	calls   sync.Mutex

	inotify *sys.Inotify // nil: none was free

	mu   sync.Mutex
	uses map[int]int // how many files need a watch
}

// NewChanges begins to watch, and calls changed after a change until Close. Calls do not overlap.
// changed runs on a goroutine of its own and is expected to compare each file with Copied.Refresh.
// polls is called once if the host cannot watch, with the reason, which names the sysctl.
func NewChanges(changed func(), polls func(error)) *Changes {
	return newChanges(changed, polls, pollEvery)
}

func newChanges(changed func(), polls func(error), every time.Duration) *Changes {
	c := &Changes{changed: changed, polls: polls, every: every, ended: make(chan struct{}), uses: map[int]int{}}
	inotify, err := sys.NewInotify()
	if err != nil {
		c.poll(err)
		return c
	}
	c.inotify = &inotify
	go c.run()
	return c
}

// run ends with the watch. What has changed is found by comparing, so the events themselves say
// nothing. Events that the kernel has dropped (IN_Q_OVERFLOW) are an event, too, so nothing is
// lost.
func (c *Changes) run() {
	events := make([]byte, 4096)
	for {
		if _, err := c.inotify.Read(events); err != nil {
			return
		}
		time.Sleep(calm) //nolint:forbidigo // lets a burst of changes pass
		c.call()
	}
}

// poll compares from now on without an event.
func (c *Changes) poll(reason error) {
	c.begin.Do(func() {
		c.polls(reason)
		go func() {
			tick := time.NewTicker(c.every)
			defer tick.Stop()
			for {
				select {
				case <-c.ended:
					return
				case <-tick.C:
					c.call()
				}
			}
		}()
	})
}

func (c *Changes) call() {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.changed()
}

// Close ends the watch of all files.
func (c *Changes) Close() error {
	c.end.Do(func() { close(c.ended) })
	if c.inotify == nil {
		return nil
	}
	return c.inotify.Close()
}

// Follow watches copied files. A nil Changes watches nothing.
func (c *Changes) Follow(list []*Copied) {
	if c == nil || c.inotify == nil {
		return
	}
	for _, one := range list {
		// An engine may write into the file, or rename a new one over it. The second raises an
		// event in the folder alone.
		for _, w := range []struct {
			file *os.File
			mask uint32
		}{{one.file, unix.IN_CLOSE_WRITE}, {one.folder, unix.IN_MOVED_TO | unix.IN_ONLYDIR}} {
			watch, err := c.add(w.file, w.mask)
			if err != nil {
				c.poll(err)
				continue
			}
			one.watches = append(one.watches, watch)
		}
	}
}

// Forget ends the watches of copied files, and lets go of the files. It is called once for each
// list that Follow was called with.
func (c *Changes) Forget(list []*Copied) {
	defer closeCopies(list)
	if c == nil {
		return
	}
	for _, one := range list {
		for _, watch := range one.watches {
			c.drop(watch)
		}
	}
}

// add watches an open file. Two files of one inode have one watch in the kernel, with one number:
// drop removes it with the last of them.
func (c *Changes) add(f *os.File, mask uint32) (watch int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// IN_MASK_ADD: a second use must not take events from the first.
	if watch, err = c.inotify.Add(f, mask|unix.IN_MASK_ADD); err != nil {
		return 0, fmt.Errorf("watch %q: %w", f.Name(), err)
	}
	c.uses[watch]++
	return watch, nil
}

// drop lets go of one use of a watch.
func (c *Changes) drop(watch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.uses[watch]--; c.uses[watch] > 0 {
		return
	}
	delete(c.uses, watch)
	c.inotify.Remove(watch)
}
