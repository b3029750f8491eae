// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// failed is the error of a start. Of an exec nothing is left running.
func (s *Service) failed(ctx context.Context, c *container, exec string, err error) error {
	if exec == "" {
		return err
	}
	if left := s.abandon(ctx, c, exec); left != nil {
		return errors.Join(err, left)
	}
	return err // as it is, with its class
}

// abandon ends the process of an exec whose start has failed after the OCI runtime had made it: its
// streams could not be opened. containerd's service forgets such a process with the error, so no
// call could kill it, and nobody has read its label back. A wrong label ends the container, as in
// Start. The pid is in the file that the runtime has written.
func (s *Service) abandon(ctx context.Context, c *container, exec string) error {
	// An exec that runs, and was started once more, has a pid there.
	state, err := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: c.id, ExecID: exec})
	if err != nil || state.GetPid() != 0 {
		return err
	}
	name := filepath.Join(c.ours(), exec+".pid") // containerd's name for it
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the runtime has made none
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p, err := sys.OpenPID(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()       // nothing is buffered
	if !ofThisShim(pid) { // it has ended, and another process has its pid
		return nil
	}
	if err := c.verify(ctx, pid, false); err != nil {
		return errors.Join(err, c.group.Kill())
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// ofThisShim says that a process is a child of this one, as all processes are that the OCI runtime
// has made and left. The text of stat is PID (NAME) STATE PPID and more.
func ofThisShim(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// A program's name may hold anything, and so a parenthesis.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	return len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
}
