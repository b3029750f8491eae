// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"os/signal"
	"sync"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// pendingDeaths is how many SIGCHLD may wait; they merge beyond.
const pendingDeaths = 32

// reap makes this process the parent of its containers, whose OCI runtime leaves them to it, and
// collects every child that ends. From here on, commands are started through go-runc's monitor
// alone: os/exec would find that its child has been collected. A subreaper gets the orphans of its
// descendants: crun forks the container's first process and ends.
var reap = sync.OnceValue(func() error { //nolint:gochecknoglobals // a process has one parent's duties
	if err := reaper.SetSubreaper(1); err != nil {
		return err
	}
	died := make(chan os.Signal, pendingDeaths)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			if err := reaper.Reap(); err != nil {
				log.L.WithError(err).Warn("reap")
			}
		}
	}()
	return nil
})
