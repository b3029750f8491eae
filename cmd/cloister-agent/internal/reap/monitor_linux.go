// SPDX-License-Identifier: Apache-2.0

package reap

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
)

// pidFileFlag precedes the name of the file that crun writes a process's pid
// to, which names the process.
const pidFileFlag = "--pid-file"

// Stdio are the standard streams of a process of a container; nil leaves what
// the command has.
type Stdio struct{ Stdin, Stdout, Stderr *os.File }

// Monitor is containerd's process monitor, with two differences. Its children
// do not inherit the agent's place with the OOM killer: a container that names
// none would be unkillable. And processes get their streams from Attach,
// without a copy in between. It is safe for concurrent use; the zero value is ready.
type Monitor struct {
	// fork is held while the agent's own score is the usual one: the score is
	// a process's, not a thread's, and a child has its parent's.
	fork sync.Mutex

	mu       sync.Mutex
	attached map[string]Stdio // by pid file
	null     *os.File         // stays open; nil until it is needed
}

// Attach gives streams to the command that will write this pid file. Detach
// takes them back. It must be called before the command starts, and Detach after it has, whether it
// started or not. crun inherits the streams and gives them to the container's process.
func (m *Monitor) Attach(pidFile string, s Stdio) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached == nil {
		m.attached = map[string]Stdio{}
	}
	m.attached[pidFile] = s
}

// Detach forgets what Attach was given.
func (m *Monitor) Detach(pidFile string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.attached, pidFile)
}

// Start starts a command; Wait ends what it starts. The channel must be read or unsubscribed: see
// Spawn.
func (m *Monitor) Start(c *exec.Cmd) (chan runc.Exit, error) {
	if err := m.connect(c); err != nil {
		return nil, err
	}
	// Without the lock, a second start could take the score back between this one's change and its
	// fork, and the child would be unkillable.
	m.fork.Lock()
	defer m.fork.Unlock()
	if err := setOOM(oomUsual); err != nil {
		return nil, err
	}
	// It runs after the fork: for that moment the OOM killer may choose the agent.
	defer m.protect()
	return reaper.Default.Start(c)
}

// Spawn starts a command that nobody waits for. What Start gives must be read:
// the reaper waits for its readers.
func (m *Monitor) Spawn(c *exec.Cmd) error {
	ended, err := m.Start(c)
	if err != nil {
		return err
	}
	// An end that nobody reads would hold the reaper up, and with it every other process's end.
	reaper.Default.Unsubscribe(ended)
	return nil
}

// connect finds the command by the argument that names its pid file. Commands without one, such as
// crun kill, keep their streams. An output that nobody asked for is /dev/null: go-runc opens that
// for reading alone, and the process would get EBADF.
func (m *Monitor) connect(c *exec.Cmd) error {
	i := slices.Index(c.Args, pidFileFlag)
	if i < 0 || i+1 >= len(c.Args) {
		return nil
	}
	m.mu.Lock()
	s := m.attached[c.Args[i+1]]
	m.mu.Unlock()
	if s.Stdin != nil {
		c.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		c.Stdout = s.Stdout
	}
	if s.Stderr != nil {
		c.Stderr = s.Stderr
	}
	for _, out := range []*io.Writer{&c.Stdout, &c.Stderr} {
		if f, ok := (*out).(*os.File); ok && f.Name() == os.DevNull {
			null, err := m.writable()
			if err != nil {
				return err
			}
			*out = null
		}
	}
	return nil
}

// writable is /dev/null for output.
func (m *Monitor) writable() (_ *os.File, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.null == nil {
		m.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	return m.null, err
}

// protect only warns: the agent works without the protection, and the container has started.
func (m *Monitor) protect() {
	if err := Protect(); err != nil {
		log.L.WithError(err).Warn("protect the agent from the OOM killer")
	}
}

// StartLocked is Start for a command that dies with the thread that starts it. go-runc asks for it
// where a command has a parent-death signal.
func (m *Monitor) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return m.Start(c)
}

// Wait gives the exit status of a started command. The status is that of a shell: 128 and the
// signal for a process that a signal ended.
func (m *Monitor) Wait(c *exec.Cmd, ended chan runc.Exit) (int, error) {
	return reaper.Default.Wait(c, ended)
}

var _ runc.ProcessMonitor = (*Monitor)(nil)
