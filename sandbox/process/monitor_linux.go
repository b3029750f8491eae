// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strconv"

	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// monitor starts the OCI runtime with the sandbox's null device for each stream that it is not
// given, where os/exec would open the host's. Before the runtime kills all processes in a
// container's cgroup, those step aside that are no part of the container.
type monitor struct {
	runc.ProcessMonitor

	null  func() *os.File // nil while there is no sandbox
	aside func(container string)
}

func (m monitor) Start(c *exec.Cmd) (chan runc.Exit, error) {
	m.prepare(c)
	return m.ProcessMonitor.Start(c)
}

func (m monitor) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	m.prepare(c)
	return m.ProcessMonitor.StartLocked(c)
}

func (m monitor) prepare(c *exec.Cmd) {
	if id := killed(c.Args); id != "" {
		m.aside(id)
	}
	m.connect(c)
}

// killed is the container whose processes a command kills, all of them; empty for any other
// command. containerd's service calls it so for Kill, and after the end of a first process that
// had no pid namespace of its own. The form is go-runc's.
func killed(args []string) string {
	if n := len(args); n > 4 && args[n-4] == "kill" && args[n-3] == "--all" && args[n-1] == strconv.Itoa(int(unix.SIGKILL)) {
		return args[n-2]
	}
	return ""
}

func (m monitor) connect(c *exec.Cmd) {
	null := m.null()
	if null == nil {
		return
	}
	if c.Stdin == nil {
		c.Stdin = null
	}
	if hosts(c.Stdout) {
		c.Stdout = null
	}
	if hosts(c.Stderr) {
		c.Stderr = null
	}
}

// hosts tells whether a stream would be the host's null device: os/exec opens it for nil, go-runc
// for a process without any stream.
func hosts(stream io.Writer) bool {
	f, ok := stream.(*os.File)
	return stream == nil || ok && f.Name() == os.DevNull
}

// aside takes clients out of a container's cgroup. A proxy of the OCI command line is in it, since
// engines look for the container's limits and use at its pid.
func (s *Service) aside(ctx context.Context, id string, clients []int) {
	c, err := s.find(id)
	if err != nil || c.group == nil {
		return
	}
	// The processes are killed all the same: of a proxy that dies with them, the engine takes 137
	// for the status.
	if err := c.group.Leave(clients); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("keep the container's proxy from being killed")
	}
}
