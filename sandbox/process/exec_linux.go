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
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/oci"
	"cloister/sandbox/crun"
	"cloister/sys"
)

// Exec adds a process, under the sandbox's label. The spec is built anew from an allow list.
// Whatever label the client asked for is replaced.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.find(r.GetID())
	if err != nil {
		return nil, err
	}
	// It becomes a file's name in the container's folder.
	if err := identifiers.Validate(r.GetExecID()); err != nil {
		return nil, fmt.Errorf("exec id: %w", err)
	}
	p, err := oci.ParseContainerProcess(r.GetSpec().GetValue())
	if err != nil {
		return nil, err
	}
	spec, err := p.ContainerProcess(text(c.sandbox.identity.Label), c.sandbox.identity.Container)
	if err != nil {
		return nil, err
	}
	r.Spec = &anypb.Any{TypeUrl: r.GetSpec().GetTypeUrl(), Value: spec}
	r.Stdout, r.Stderr = outputs(c.sandbox.null, r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTerminal())
	resp, err := s.TTRPCTaskService.Exec(ctx, r)
	if err == nil {
		c.started.Delete(r.GetExecID()) // of an exec before it
	}
	return resp, crun.Words(err, "")
}

// begin refuses a second start of an exec. After one that failed, containerd's service would panic
// and count the exec as running for good.
func (c *container) begin(exec string) error {
	if exec == "" {
		return nil
	}
	if _, again := c.started.LoadOrStore(exec, nil); again {
		return fmt.Errorf("exec %s was started before: delete it, and make another: %w", exec, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// failed is the error of a start, with its class. Of an exec the process is ended; a child that it
// has forked by then stays.
func (s *Service) failed(ctx context.Context, c *container, exec string, err error) error {
	if exec == "" {
		return err
	}
	left := s.abandon(ctx, c, exec)
	if left == nil {
		return err
	}
	start, _ := status.FromError(err) // of a join, clients would see the status as text
	return status.Errorf(start.Code(), "%s; end its process: %v", start.Message(), left)
}

// abandon ends the process of an exec whose start has failed after the OCI runtime had made it: its
// streams could not be opened. containerd's service forgets such a process with the error, so no
// call could kill it, and nobody has read its label back. A wrong label ends the container, as in
// Start. With an error the process may still run.
func (s *Service) abandon(ctx context.Context, c *container, exec string) error {
	// An exec that runs, and was started once more, has a pid there.
	state, err := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: c.id, ExecID: exec})
	if status.Code(err) == codes.NotFound { // it was never added, or is deleted
		return nil
	}
	if err != nil || state.GetPid() != 0 {
		return err
	}
	pid, err := c.takePID(exec)
	if err != nil || pid == 0 {
		return err
	}
	p, err := sys.OpenPID(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close() // nothing is buffered
	// Else it has ended, and another process has its pid.
	if ours, err := ofThisShim(pid); err != nil || !ours {
		return err
	}
	unread := c.verify(ctx, pid, false)
	if unread != nil && !errors.Is(unread, errUnread) {
		return errors.Join(unread, c.group.Kill())
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(unread, err)
	}
	return unread
}

// takePID gives the pid that the OCI runtime has written down for an exec, and removes the file,
// which a later start that fails earlier would find. It gives 0 where the runtime has made no
// process.
func (c *container) takePID(exec string) (int, error) {
	name := filepath.Join(c.ours(), exec+".pid") // containerd's name for it
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if pid == c.pid { // of an exec named init the file is the first process's until it is started
		return 0, nil
	}
	return pid, os.Remove(name)
}

// ofThisShim says that a process is a child of this one, as all processes are that the OCI runtime
// has made and left.
func ofThisShim(pid int) (bool, error) {
	s, err := sys.StatOf(pid)
	return s.Parent == os.Getpid(), err
}

// unverified ends what has been started and failed verify. After a wrong label that is all of the
// container: what the process has started meanwhile has the wrong label as well, and is in no list
// but the cgroup's. An exec whose label could not be read is ended alone, and a child that it has
// forked stays.
func (s *Service) unverified(ctx context.Context, c *container, exec string, err error) error {
	if exec == "" || !errors.Is(err, errUnread) {
		return errors.Join(err, c.group.Kill())
	}
	// The service kills by pid, which takes no descriptor.
	_, killErr := s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: c.id, ExecID: exec, Signal: uint32(unix.SIGKILL)})
	return errors.Join(err, killErr)
}
