// SPDX-License-Identifier: Apache-2.0

package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Take waits for the lock of the file path, which it makes if need be, until ctx ends. Closing the
// file gives the lock back; so does the end of the process, even by SIGKILL. The file stays.
func Take(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return f, nil
	}
	taken := make(chan error, 1)
	go wait(f, taken)
	select {
	case err := <-taken:
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	case <-ctx.Done():
		go func() { // the lock comes when its holder lets go; it is given straight back
			_ = errors.Join(<-taken, f.Close())
		}()
		return nil, fmt.Errorf("another process holds %s: %w", path, ctx.Err())
	}
}

// wait blocks in flock, which no context ends; it has a goroutine for it. A signal to its thread
// interrupts the call, which is then repeated.
func wait(f *os.File, taken chan<- error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			taken <- err
			return
		}
	}
}
