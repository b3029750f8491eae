// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/log"
)

// Values for drop_caches: 2 frees dentries and inodes, and leaves the page cache alone.
const (
	dropDentries = "2"
	dropCaches   = "/proc/sys/vm/drop_caches"
	inodeCount   = "/proc/sys/fs/inode-nr"

	// inodeKiB is what the kernel keeps for a file it has seen: without a bound, that many fill the
	// memory first, and the kernel lets go of them by itself.
	inodeKiB = 1
	// inodeTick is the shortest time between two counts. A larger bound is counted less often: no
	// listing of a folder is to take in more than half of it meanwhile.
	inodeTick = 100 * time.Millisecond
	inodeRate = 150_000 // of the bound, in a second
)

// forgetInodes has the kernel let go of the share's inodes that nobody uses. It is best effort: it
// frees only what nobody uses, and a failure costs memory and descriptors, not correctness.
func forgetInodes(ctx context.Context) {
	if err := os.WriteFile(dropCaches, []byte(dropDentries), 0); err != nil {
		log.G(ctx).WithError(err).Warn("drop dentries")
	}
}

// keepInodes holds the share's inodes below a bound that memory does not hold them to. Each one
// that the kernel remembers is a descriptor of the host's, and when those are used up no file can
// be made or opened. most is the number of descriptors that the file server may hold; zero means
// that the host knows no limit that matters.
func (s *Service) keepInodes(most uint64) error {
	m, err := readKiB("/proc/meminfo", "MemTotal")
	if err != nil {
		return err
	}
	// Memory runs out first: the kernel frees inodes by itself under pressure, and no loop is
	// needed.
	if most == 0 || m["MemTotal"]/inodeKiB < most {
		return nil
	}
	// Asked once here, so that a kernel without the counter is an error of Configure and not a line
	// in the console.
	if _, err := inodes(); err != nil {
		return err
	}
	go watchInodes(context.Background(), most) // until the guest ends
	return nil
}

// watchInodes looks whether the kernel's inodes have grown by a quarter of most since it last let
// go of them. The kernel tells nobody of that. A quarter, so that a burst between two looks still
// fits into the limit.
func watchInodes(ctx context.Context, most uint64) {
	// The largest number, so that the first look sets it.
	held := ^uint64(0) // by whatever it is that still needs them
	for range time.Tick(max(inodeTick, time.Duration(most)*time.Second/inodeRate)) {
		n, err := inodes()
		if err != nil {
			log.G(ctx).WithError(err).Warn("count inodes")
			return
		}
		// Others free inodes too; growth counts from the lowest number seen.
		held = min(held, n)
		if n-held < most/4 {
			continue
		}
		// The file server closes its descriptor when the kernel forgets the inode.
		forgetInodes(ctx)
		if held, err = inodes(); err != nil {
			return
		}
	}
}

// inodes counts those that the kernel has in memory, of all file systems.
func inodes() (n uint64, err error) {
	data, err := os.ReadFile(inodeCount)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(string(data), &n); err != nil {
		return 0, fmt.Errorf("%s: %w", inodeCount, err)
	}
	return n, nil
}
