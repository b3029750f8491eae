// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/containers"
	"cloister/cmd/cloister-agent/internal/reap"
	"cloister/cmd/cloister-agent/internal/stdio"
	"cloister/sandbox/crun"
)

// Both are on the guest's tmpfs /run: what is there dies with the guest.
const (
	crunRoot = "/run/cloister/crun"
	ioDir    = "/run/cloister/io"
)

// process names a process of the guest; exec is empty for a container's first. It is a map's key;
// ids are checked, so no two processes have one.
type process struct{ container, exec containers.ID }

// Service is the Task API for containers that the Guest service has prepared.
// What it does not say itself, containerd's service says. It is safe for concurrent use;
// containerd's service orders the calls for one container.
type Service struct {
	taskapi.TTRPCTaskService
	streams *stdio.Registry
	table   *containers.Table
	exits   *exits
	monitor *reap.Monitor
	runtime string // path of crun

	mu       sync.Mutex
	pipes    map[process]*stdio.Pipes
	programs map[process]string // what each of them executes, for error texts
}

// New starts containerd's service, which starts the OCI runtime of that path. Call it
// once.
func New(ctx context.Context, monitor *reap.Monitor, runtime string, publisher cshim.Publisher, streams *stdio.Registry,
	table *containers.Table,
) (*Service, error) {
	// The service shuts down with the guest and never before: the host has no call for it.
	ctx, sd := shutdown.WithShutdown(ctx)
	exits := newExits(publisher)
	inner, err := runctask.NewTaskService(ctx, exits, sd)
	if err != nil {
		return nil, fmt.Errorf("start task service: %w", err)
	}
	// The monitor is a global of go-runc; a command that starts before this would be reaped by the
	// wrong one.
	runc.Monitor = monitor // the task service has just set its own
	s := &Service{
		TTRPCTaskService: inner, streams: streams, table: table, exits: exits, monitor: monitor, runtime: runtime,
		pipes: map[process]*stdio.Pipes{}, programs: map[process]string{},
	}
	exits.status = s.exitStatus
	return s, nil
}

// Statuses of a program that cannot be executed once its container has started. exitStatus turns
// the first into the second.
const (
	crunExecFailed = 1
	runcExecFailed = 255
)

// exitStatus is the status that runc would have given. A program may end with 1 itself; only crun's
// own report in the streams tells the two apart.
func (s *Service) exitStatus(p process, status uint32) uint32 {
	if status != crunExecFailed {
		return status
	}
	if pipes, ok := s.lookup(p); ok && pipes.ExecFailed() {
		return runcExecFailed
	}
	return status
}

// Create makes the container of a prepared bundle. Of the request it takes the
// id, the terminal and the streams; the rest is the guest's own. Runtime options of the host are
// not taken: they name binaries and folders of the host.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (_ *taskapi.CreateTaskResponse, err error) {
	id, err := containers.ParseID(r.GetID())
	if err != nil {
		return nil, err
	}
	// From here on the container cannot be removed, until Delete or an error below.
	if err := s.table.Task(id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.table.Untask(id)
		}
	}()
	opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: s.runtime, Root: crunRoot})
	if err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	p := process{container: id}
	pipes, err := s.openPipes(ctx, p, r.GetTerminal(), stdio.Names{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr()})
	if err != nil {
		return nil, err
	}
	// The streams are given to the crun that will write this pid file; afterwards nothing else may
	// find them.
	defer s.attach(p, pipes)()
	resp, err := s.TTRPCTaskService.Create(ctx, &taskapi.CreateTaskRequest{
		// Without FIFOs the names are empty, and the monitor gives the command its streams.
		ID: string(id), Bundle: s.table.Dir(id), Terminal: r.GetTerminal(), Options: opts,
		Stdin: pipes.FIFOs.Stdin, Stdout: pipes.FIFOs.Stdout, Stderr: pipes.FIFOs.Stderr,
	})
	if err != nil {
		// What crun has written is in the error as well, which the client sees; the container has
		// written nothing.
		pipes.Discard()
		s.closePipes(ctx, p)
		return nil, crun.Words(err, s.bundleProgram(id))
	}
	// crun and the container's process have their ends by now.
	pipes.Started()
	return resp, nil
}

// bundleProgram is what a container executes; empty when its bundle does not say. It is read only
// after a failure, for the error's text: runc names the program, crun does not always.
func (s *Service) bundleProgram(id containers.ID) string {
	data, err := os.ReadFile(filepath.Join(s.table.Dir(id), "config.json"))
	if err != nil {
		return ""
	}
	var spec struct {
		Process json.RawMessage `json:"process"`
	}
	if json.Unmarshal(data, &spec) != nil {
		return ""
	}
	return program(spec.Process)
}

// program is the first argument of an OCI process; empty for none. The argument is the workload's,
// and only shown.
func program(spec []byte) string {
	var p struct {
		Args []string `json:"args"`
	}
	if json.Unmarshal(spec, &p) != nil || len(p.Args) == 0 {
		return ""
	}
	return p.Args[0]
}

// Exec adds a process to a container. The process is made at Start. Until then, Delete takes the
// exec back.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*types.Empty, error) {
	p, err := parse(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	if p.exec == "" {
		return nil, fmt.Errorf("exec without an id: %w", errdefs.ErrInvalidArgument)
	}
	// Before the spec is read: a wrong token must not leave an exec behind.
	pipes, err := s.openPipes(ctx, p, r.GetTerminal(), stdio.Names{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr()})
	if err != nil {
		return nil, err
	}
	spec, err := s.withHome(ctx, r.GetID(), r.GetSpec())
	if err != nil {
		s.closePipes(ctx, p)
		return nil, err
	}
	resp, err := s.TTRPCTaskService.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: r.GetID(), ExecID: r.GetExecID(), Terminal: r.GetTerminal(), Spec: spec,
		Stdin: pipes.FIFOs.Stdin, Stdout: pipes.FIFOs.Stdout, Stderr: pipes.FIFOs.Stderr,
	})
	if err != nil {
		pipes.Discard()
		s.closePipes(ctx, p)
		return nil, crun.Words(err, "")
	}
	// Kept for Start, whose error names the program.
	s.mu.Lock()
	s.programs[p] = program(r.GetSpec().GetValue())
	s.mu.Unlock()
	return resp, nil
}

// Start starts a container or an exec. A container's first process has its streams since Create; an
// exec gets them now.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, err := parse(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	pipes, ok := s.lookup(p)
	if !ok || p.exec == "" {
		resp, err := s.TTRPCTaskService.Start(ctx, r)
		return resp, crun.Words(err, "")
	}
	defer s.attach(p, pipes)()
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	if err != nil { // it has no ends of the pipes: its streams end
		pipes.Discard()
		s.mu.Lock()
		name := s.programs[p]
		s.mu.Unlock()
		return nil, crun.Words(err, name)
	}
	pipes.Started()
	return resp, nil
}

// attach hands the process's ends to the crun that makes it. The function it
// gives takes them back. The name of the pid file is containerd's (init.pid, or the exec's id), and
// the only sign by which the monitor knows the command.
func (s *Service) attach(p process, pipes *stdio.Pipes) func() {
	name := "init"
	if p.exec != "" {
		name = string(p.exec)
	}
	pidFile := filepath.Join(s.table.Dir(p.container), name+".pid")
	s.monitor.Attach(pidFile, reap.Stdio{Stdin: pipes.Stdin, Stdout: pipes.Stdout, Stderr: pipes.Stderr})
	return func() { s.monitor.Detach(pidFile) }
}

// Wait answers when a process has ended and its TaskExit is on the way. The exit is published
// before the answer, so the host has the event when it sees the status.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	resp, err := s.TTRPCTaskService.Wait(ctx, r)
	if err == nil {
		s.awaitExit(ctx, r.GetID(), r.GetExecID())
	}
	return resp, crun.Words(err, "")
}

// Delete ends a container or an exec that is no more, and its streams. The streams are closed after
// containerd's service has deleted the process: what it wrote last is still drained then, for at
// most stdio's limit.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	p, err := parse(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	// See exits: the event must come before the delete's answer.
	s.awaitExit(ctx, r.GetID(), r.GetExecID())
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil {
		return nil, crun.Words(err, "")
	}
	s.exits.forget(p)
	s.closePipes(ctx, p)
	if p.exec == "" {
		s.closeExecs(ctx, p.container)
		s.table.Untask(p.container)
	}
	return resp, nil
}

// awaitExit waits for the TaskExit of a process that has ended. containerd's
// service lets Wait and Delete go on before it has published that. A process that never ran has pid
// 0, and no exit will come.
func (s *Service) awaitExit(ctx context.Context, id, exec string) {
	state, err := s.State(ctx, &taskapi.StateRequest{ID: id, ExecID: exec})
	if err != nil || state.GetStatus() != tasktypes.Status_STOPPED || state.GetPid() == 0 {
		return
	}
	s.exits.wait(ctx, process{containers.ID(id), containers.ID(exec)})
}

// Kill sends a signal. To one process it goes without crun, whose start takes
// longer than all else. A signal to all processes, or to an exec, needs what only containerd's
// service knows. Under emulation a start of crun takes half a second.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*types.Empty, error) {
	if !r.GetAll() && r.GetExecID() == "" {
		return &types.Empty{}, s.killInit(ctx, r)
	}
	resp, err := s.TTRPCTaskService.Kill(ctx, r)
	return resp, crun.Words(err, "")
}

// killInit sends the signal itself. Its errors have the words and classes of containerd's service.
func (s *Service) killInit(ctx context.Context, r *taskapi.KillRequest) error {
	state, err := s.State(ctx, &taskapi.StateRequest{ID: r.GetID()})
	if err != nil {
		return err
	}
	if state.GetStatus() == tasktypes.Status_STOPPED || state.GetPid() == 0 {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	err = unix.Kill(int(state.GetPid()), unix.Signal(r.GetSignal()))
	// It ended between the state and the signal.
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("signal %d: %w", r.GetSignal(), errdefs.ErrInvalidArgument)
	}
	return err
}

// Checkpoint is not here: a guest's processes stay in it. Freezing a guest as a whole is the host's
// to do.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*types.Empty, error) {
	return nil, fmt.Errorf("checkpoint: %w", errdefs.ErrNotImplemented)
}

// Shutdown is the Guest service's. The host ends the guest by that one; a client of the Task API
// must not.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*types.Empty, error) {
	return nil, fmt.Errorf("shutdown of a guest's task service: %w", errdefs.ErrNotImplemented)
}

// parse checks both ids; an empty exec is the container's first process.
func parse(container, exec string) (process, error) {
	id, err := containers.ParseID(container)
	if err != nil || exec == "" {
		return process{container: id}, err
	}
	execID, err := containers.ParseID(exec)
	return process{container: id, exec: execID}, err
}

// openPipes takes the streams of a process once. The second look is under the lock: two calls with
// one id may both have passed the first.
func (s *Service) openPipes(ctx context.Context, p process, terminal bool, names stdio.Names) (*stdio.Pipes, error) {
	if _, ok := s.lookup(p); ok {
		return nil, fmt.Errorf("process %s of container %s: %w", p.exec, p.container, errdefs.ErrAlreadyExists)
	}
	pipes, err := s.streams.Open(ctx, ioDir, terminal, names)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pipes[p]; ok {
		return nil, errors.Join(fmt.Errorf("process %s of container %s: %w", p.exec, p.container, errdefs.ErrAlreadyExists),
			pipes.Close(ctx))
	}
	s.pipes[p] = pipes
	return pipes, nil
}

// lookup tells the streams of a process that has some; without stdio a process has Pipes all the
// same.
func (s *Service) lookup(p process) (*stdio.Pipes, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pipes, ok := s.pipes[p]
	return pipes, ok
}

// closePipes ends a process's streams. It takes the process out of the maps first, so that two
// deletes close once.
func (s *Service) closePipes(ctx context.Context, p process) {
	s.mu.Lock()
	pipes := s.pipes[p]
	delete(s.pipes, p)
	delete(s.programs, p)
	s.mu.Unlock()
	if pipes == nil {
		return
	}
	if err := pipes.Close(ctx); err != nil {
		log.G(ctx).WithError(err).WithField("id", p.container).Warn("close stdio")
	}
}

// closeExecs is for execs that were never deleted. A client may delete a container whose execs it
// has forgotten; their streams would stay open on the host.
func (s *Service) closeExecs(ctx context.Context, id containers.ID) {
	s.mu.Lock()
	var left []process
	for p := range s.pipes {
		if p.container == id {
			left = append(left, p)
		}
	}
	s.mu.Unlock()
	for _, p := range left {
		s.closePipes(ctx, p)
	}
}
