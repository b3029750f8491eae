// SPDX-License-Identifier: Apache-2.0

package reap

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// signals is how many ends of processes may be told at once; they merge beyond.
const signals = 64

// Start begins to reap. Call it once, before anything is started.
func Start() {
	died := make(chan os.Signal, signals)
	signal.Notify(died, unix.SIGCHLD)
	go reap(died)
}

// reap waits for all dead children at each signal, so merged signals lose nothing.
func reap(died <-chan os.Signal) {
	for range died {
		if err := reaper.Reap(); err != nil {
			log.L.WithError(err).Warn("reap")
		}
	}
}

const (
	oomPath  = "/proc/self/oom_score_adj"
	oomNever = "-1000"
	oomUsual = "0"
)

// Protect keeps the OOM killer off the agent. Children inherit the score, so commands are started
// through Monitor alone.
func Protect() error { return setOOM(oomNever) }

// setOOM writes the score of the whole process, not of a thread.
func setOOM(score string) error {
	if err := os.WriteFile(oomPath, []byte(score), 0); err != nil {
		return fmt.Errorf("set oom score: %w", err)
	}
	return nil
}
