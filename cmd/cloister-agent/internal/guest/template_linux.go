// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/boot"
	"cloister/cmd/cloister-agent/internal/network"
	"cloister/sandbox/guestapi"
)

const (
	dropAll       = "3"
	compactMemory = "/proc/sys/vm/compact_memory"
	// keptKiB of free memory are not touched by trim, lest the OOM killer comes. It touches
	// touchKiB at a time.
	keptKiB, touchKiB = 24 << 10, 4 << 10
)

// AwaitWake makes the guest one that can be saved: it says hello, and waits until the host wakes
// it. From then on it is a guest of its own. It returns only with an error.
func AwaitWake(port *os.File, hello guestapi.Hello) error {
	if err := boot.WithoutBalloon(trim); err != nil {
		return err
	}
	// The hello goes without a session on top: yamux would have state in both ends, and the host's
	// end is another one after the start.
	if _, err := port.WriteString(hello.String()); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	return waker{addEntropy, reseed, setTime, boot.LeaveBalloon, boot.StartAnew}.wake(port)
}

// waker has what a guest does to become one of its own; a test has others.
type waker struct {
	addEntropy   func(seed []byte) error
	reseed       func() error
	setTime      func(unixNano int64) error
	leaveBalloon func() error
	startAnew    func(port *os.File) error
}

// wake waits for the host's wake and does the steps. Their order is what keeps copies apart: a
// program that starts before the reseed has secrets that all guests of the template know.
func (w waker) wake(port *os.File) error {
	// The guest is stopped, saved and loaded while this read waits; the first line after that comes
	// from another host process.
	wake, err := guestapi.ReadWake(port)
	if err != nil {
		return err
	}
	if err := w.addEntropy(wake.Seed[:]); err != nil {
		return err
	}
	// Crediting alone is not enough: the kernel's generators draw new keys only now and then, and
	// each CPU keeps its own.
	if err := w.reseed(); err != nil {
		return err
	}
	if err := w.setTime(wake.TimeUnixNano); err != nil {
		return err
	}
	if wake.KeepMemory {
		if err := w.leaveBalloon(); err != nil {
			return err
		}
	}
	return w.startAnew(port)
}

// Awake does what is left to do in a guest from a template once its agent has started anew. The
// share's device was not there at boot, and link-layer addresses that the kernel has made are the
// same in all copies.
func Awake() error {
	return errors.Join(boot.BindShare(), network.NewAddresses())
}

// reseed has the kernel draw the keys of all CPUs' generators anew, from what was just added.
func reseed() error {
	f, err := os.OpenFile(randomPath, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil {
		return errors.Join(fmt.Errorf("reseed: %w", err), f.Close())
	}
	return f.Close()
}

// trim gives back what booting took, and leaves zeroes in the pages that are free: the host keeps
// only pages with data. Compaction and a full page cache drop come first, so that free pages are
// few and whole; then each is touched once, which zeroes it.
func trim() error {
	debug.FreeOSMemory()
	unix.Sync()
	for _, write := range []struct{ path, value string }{{dropCaches, dropAll}, {compactMemory, "1"}} {
		if err := os.WriteFile(write.path, []byte(write.value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return touch()
}

// touch has the kernel clear the pages that are free, but for keptKiB. It takes them in steps and
// looks again before each: without memory the kernel panics, since process 1 cannot be killed.
func touch() (failed error) {
	for {
		// Free memory counts what the kernel keeps for itself in each zone, some 200 MiB of a large
		// guest. Available memory does not, but counts what could be given back.
		m, err := readKiB("/proc/meminfo", "MemFree", "MemAvailable")
		if err != nil || min(m["MemFree"], m["MemAvailable"]) <= keptKiB+touchKiB {
			return err
		}
		// POPULATE faults all pages in at once; the kernel clears each one. They are private and
		// anonymous, so unmapping gives them back.
		pages, err := unix.Mmap(-1, 0, touchKiB<<10, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_ANONYMOUS|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("touch free memory: %w", err)
		}
		defer func() { failed = errors.Join(failed, unix.Munmap(pages)) }()
	}
}
