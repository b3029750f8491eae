// SPDX-License-Identifier: Apache-2.0

package reap

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
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

// Protect keeps the OOM killer off the agent.
func Protect() error { return setOOM(oomNever) }

func setOOM(score string) error {
	if err := os.WriteFile(oomPath, []byte(score), 0); err != nil {
		return fmt.Errorf("set oom score: %w", err)
	}
	return nil
}

// Monitor is containerd's process monitor, whose children do not inherit the
// agent's place with the OOM killer: a container that names none would be
// unkillable. The score is a process's, not a thread's, so it is taken back
// for the moment of the fork.
type Monitor struct{ fork sync.Mutex }

// Start starts a command; Wait ends what it starts.
func (m *Monitor) Start(c *exec.Cmd) (chan runc.Exit, error) {
	m.fork.Lock()
	defer m.fork.Unlock()
	if err := setOOM(oomUsual); err != nil {
		return nil, err
	}
	defer m.protect()
	return reaper.Default.Start(c)
}

func (m *Monitor) protect() {
	if err := Protect(); err != nil {
		log.L.WithError(err).Warn("agent is not protected")
	}
}

// StartLocked is Start for a command that dies with its thread's parent.
func (m *Monitor) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return m.Start(c)
}

// Wait gives the exit status of a started command.
func (m *Monitor) Wait(c *exec.Cmd, ended chan runc.Exit) (int, error) {
	return reaper.Default.Wait(c, ended)
}

var _ runc.ProcessMonitor = (*Monitor)(nil)
