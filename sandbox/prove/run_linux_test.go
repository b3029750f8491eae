// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

// TestSharedMemoryIsTakenAway makes the first segment of a host, whose id is 0, and a later one.
// None is left.
func TestSharedMemoryIsTakenAway(t *testing.T) {
	testenv.NeedRoot(t)
	if err := sys.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
			return err
		}
		for i := range 2 {
			r := &runner{shared: -1}
			if err := r.share(); err != nil {
				return err
			}
			if first := r.shared == 0; first != (i == 0) {
				return fmt.Errorf("segment %d has the id %d, want 0 for the first alone", i, r.shared)
			}
			if err := r.close(); err != nil {
				return err
			}
			if id, err := unix.SysvShmGet(r.key, 0, 0); !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("the segment with key %#x is left, as %d: %w", r.key, id, err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
