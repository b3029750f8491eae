// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/oci"
	"cloister/sandbox/crun"
	"cloister/sandbox/statedir"
	"cloister/sandbox/tally"
	"cloister/sys"
)

// Service is the Task API of one sandbox of class process. What it does not say itself,
// containerd's service for runc says.
type Service struct {
	taskapi.TTRPCTaskService
	load      Load
	namespace string
	publisher *publisher
	stop      func()

	opening sync.Mutex // held before mu: one create at a time opens the sandbox or closes it

	mu         sync.Mutex
	sandbox    *sandbox // nil before the first create and after the last delete
	containers map[string]*container
}

// Load reads the configuration for the first container of a sandbox, whose bundle that is. An error
// refuses the container and leaves no effect.
type Load func(bundle string, r *taskapi.CreateTaskRequest) (Config, error)

// closeLimit bounds the wait for the last events.
const closeLimit = 5 * time.Second

// New starts the service of containers of an engine's namespace. clients are the pids of the
// processes that call it. stop is called once no container is left and the engine asks for it. From
// now on this process collects all its children. ctx gives values alone.
func New(ctx context.Context, load Load, namespace string, events Publisher, clients func() []int, stop func()) (*Service, error) {
	if err := reap(); err != nil {
		return nil, err
	}
	s := &Service{load: load, namespace: namespace, stop: stop, containers: map[string]*container{}}
	s.publisher = &publisher{to: events, bundle: s.bundleOf, null: s.null, ended: make(chan struct{})}
	// containerd's service ends by this, not by the caller's context: its goroutines must outlive
	// the call.
	ctx, sd := shutdown.WithShutdown(context.WithoutCancel(ctx))
	var err error
	s.TTRPCTaskService, err = runctask.NewTaskService(ctx, s.publisher, sd)
	// A global of go-runc; the task service has just set its own.
	runc.Monitor = monitor{ProcessMonitor: reaper.Default, null: s.null, aside: func(id string) { s.aside(ctx, id, clients()) }}
	return s, err
}

// null is the sandbox's null device; nil while there is no sandbox.
func (s *Service) null() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil {
		return nil
	}
	return s.sandbox.null
}

// Empty is true when no container is left or being created.
func (s *Service) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers) == 0
}

// bundleOf is the engine's bundle; empty for a container that is not there.
func (s *Service) bundleOf(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c.bundle
	}
	return ""
}

// find gives a container, or errdefs.ErrNotFound as clients expect it of runc's shim.
func (s *Service) find(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, unknown(id)
	}
	return c, nil
}

func unknown(id string) error { return fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound) }

// Create makes a container, whose first process waits under the sandbox's label. On an error
// nothing of it is left, and nothing of the sandbox if there is no other container. A client that
// disconnects before the answer gets no container: it takes it for not made.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.GetCheckpoint() != "" || r.GetParentCheckpoint() != "" {
		return nil, fmt.Errorf("checkpoint %q: restored processes would have the labels of those that were saved: %w", r.GetCheckpoint(),
			errdefs.ErrNotImplemented)
	}
	cfg, err := s.load(r.GetBundle(), r)
	if err != nil {
		return nil, err
	}
	// All that can be refused by the configuration is refused here, before the first effect.
	w, err := readWorkload(r.GetBundle(), cfg.Workloads)
	if err != nil {
		return nil, err
	}
	if err := w.CheckFirst(r.GetID()); err != nil {
		return nil, err
	}
	if err := checkMapped(ctx, cfg.Runtime, w.Mapped); err != nil {
		return nil, err
	}
	for _, p := range w.Ignored {
		log.G(ctx).WithField("id", r.GetID()).Debugf("config.json: %s", p)
	}
	c, err := s.add(ctx, cfg, r, w)
	if err != nil {
		count(ctx, cfg, func(n *tally.Counts) { n.Failed("identity", err) })
		return nil, err
	}
	resp, err := s.create(ctx, c, r)
	if err != nil {
		count(ctx, cfg, func(n *tally.Counts) { n.Failed("container", err) })
		return nil, errors.Join(err, s.drop(ctx, c))
	}
	if w.Role != oci.Member {
		count(ctx, cfg, func(n *tally.Counts) { n.Started(string(oci.ClassProcess)) })
	}
	return resp, nil
}

// count changes the counts of the host. No container fails for them.
func count(ctx context.Context, cfg Config, change func(*tally.Counts)) {
	if err := tally.Add(cfg.Host.State, change); err != nil {
		log.G(ctx).WithError(err).Warn("this start is missing in the metrics")
	}
}

// add enters a container, and opens the sandbox for the first one. opening is held over the whole
// of it: a delete of the last container must not close the sandbox that another create has just
// found.
func (s *Service) add(ctx context.Context, cfg Config, r *taskapi.CreateTaskRequest, w *oci.Workload) (*container, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	sandbox, taken := s.sandbox, s.containers[r.GetID()] != nil
	var pod *oci.Workload
	if first := s.containers[w.SandboxID]; first != nil {
		pod = first.workload
	}
	s.mu.Unlock()
	if err := w.CheckPod(pod); err != nil {
		return nil, fmt.Errorf("container %s: %w", r.GetID(), err)
	}
	switch {
	case taken:
		return nil, fmt.Errorf("container %s: %w", r.GetID(), errdefs.ErrAlreadyExists)
	case sandbox == nil && w.Role == oci.Member:
		return nil,
			fmt.Errorf("container %s: sandbox %q is not running: start the pod's first container before it (CRI-O: "+
				"drop_infra_ctr = false): %w", r.GetID(), w.SandboxID, errdefs.ErrFailedPrecondition)
	case sandbox == nil:
		var err error
		if sandbox, err = open(ctx, cfg, s.namespace, r.GetID(), r.GetBundle(), w); err != nil {
			return nil, err
		}
	default:
		if err := sandbox.suits(w); err != nil {
			return nil, fmt.Errorf("container %s: %w", r.GetID(), err)
		}
	}
	c := &container{
		id: r.GetID(), bundle: r.GetBundle(), workload: w, sandbox: sandbox, cgroups: w.CgroupsPath,
		deleting: make(chan struct{}, 1),
	}
	if c.cgroups == "" {
		// runc and crun differ in what an empty path means, and the record needs to know it.
		c.cgroups = filepath.Join("/cloister", s.namespace, c.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sandbox, s.containers[c.id] = sandbox, c
	return c, nil
}

// create prepares the container and has the OCI runtime make it. A container whose label or volumes
// are wrong is killed while its first process still waits.
func (s *Service) create(ctx context.Context, c *container, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	keep, err := c.prepare(ctx, mountsOf(r))
	if err != nil {
		return nil, err
	}
	// The files stay open until they have been compared: an inode that is held cannot be given to
	// another file.
	defer keep.Close()
	c.sandbox.reached("prepare")
	opts, err := typeurl.MarshalAnyToProto(&options.Options{
		BinaryName: c.sandbox.config.Runtime, Root: c.sandbox.dir.RuntimeRoot(),
		SystemdCgroup: c.systemd,
	})
	if err != nil {
		return nil, err
	}
	var resp *taskapi.CreateTaskResponse
	stdout, stderr := outputs(c.sandbox.null, r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTerminal())
	whole := context.WithoutCancel(ctx) // a runtime that is killed half-way leaves what nobody knows of
	act := func() (pid int, err error) {
		resp, err = s.TTRPCTaskService.Create(whole, &taskapi.CreateTaskRequest{
			ID: c.id, Bundle: c.ours(), Terminal: r.GetTerminal(), Options: opts,
			Stdin: r.GetStdin(), Stdout: stdout, Stderr: stderr,
		})
		return int(resp.GetPid()), err
	}
	// pid is 0 if the runtime made nothing. Else the container exists, whatever the record says.
	recorded := c.record(act)
	if c.pid == 0 {
		return nil, crun.Words(recorded, program(c.workload.Args))
	}
	err = errors.Join(recorded, c.verify(ctx, c.pid, true), c.checkVolumes())
	c.volumes = nil // closed from here on
	c.sandbox.reached("verify")
	if err == nil {
		err = ctx.Err() // the client has gone and takes the container for not made
	}
	if err != nil {
		return nil, errors.Join(err, s.discard(whole, c.id))
	}
	return resp, nil
}

func program(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// record writes the container's effects down around act, which makes them and gives process 1. The
// cgroup is promised first, so that it is undone last.
func (c *container) record(act func() (pid int, err error)) error {
	return c.sandbox.do(c.effects()[0], func(*statedir.Effect) error {
		return c.sandbox.do(c.effects()[1], func(e *statedir.Effect) (err error) {
			if c.pid, err = act(); err == nil {
				e.Process, err = sys.ProcessOf(c.pid)
			}
			return err
		})
	})
}

// discard has containerd's service forget a container that is not to run. The service deletes only
// what has ended, so it is killed and waited for. Its exit event goes out as for any other
// container.
func (s *Service) discard(ctx context.Context, id string) error {
	_, err := s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	if _, waitErr := s.TTRPCTaskService.Wait(ctx, &taskapi.WaitRequest{ID: id}); waitErr != nil {
		return errors.Join(err, waitErr)
	}
	_, err = s.TTRPCTaskService.Delete(ctx, &taskapi.DeleteRequest{ID: id})
	return err
}

// Start runs a created container or exec, and reads back the label that it runs under. The pending
// label is read again: between create and start somebody with rights on the process may have
// changed it. An exec has no such moment and is read once it runs. A wrong one is killed with the
// container (unverified).
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, err := s.find(r.GetID())
	if err != nil {
		return nil, err
	}
	if r.GetExecID() == "" {
		if err := c.verify(ctx, c.pid, true); err != nil {
			return nil, err
		}
	}
	if err := c.begin(r.GetExecID()); err != nil {
		return nil, err
	}
	// From here on it ends without its client: a deadline that passes is no wrong label, for which
	// the container would be killed.
	ctx = context.WithoutCancel(ctx)
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	if err != nil {
		return nil, s.failed(ctx, c, r.GetExecID(), crun.Words(err, program(c.workload.Args)))
	}
	if err := c.verify(ctx, int(resp.GetPid()), false); err != nil {
		return nil, s.unverified(ctx, c, r.GetExecID(), err)
	}
	if r.GetExecID() == "" {
		c.sandbox.reached("start")
	} else {
		c.sandbox.reached("exec started")
	}
	return resp, nil
}

// Update changes a container's limits. Fields that not every OCI runtime honours are refused, as in
// Create.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	if err := oci.ParseContainerResources(r.GetResources().GetValue()); err != nil {
		return nil, err
	}
	return s.TTRPCTaskService.Update(ctx, r)
}

// State tells where a process stands. containerd's service has our bundle and our streams; the
// engine knows its own.
func (s *Service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	resp, err := s.TTRPCTaskService.State(ctx, r)
	if err == nil {
		resp.Bundle = s.bundleOf(r.GetID())
		asked(s.null(), &resp.Stdout, &resp.Stderr)
	}
	return resp, err
}

// Delete forgets a process that has ended. With a container's first process the container goes, and
// with the last container the sandbox. An error before the service has deleted it leaves all as it
// is, and Delete may be repeated. Of two deletes the second one waits, and finds nothing: its
// client may take away what it has mounted for the container.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.find(r.GetID())
	if err != nil {
		return nil, err
	}
	if r.GetExecID() == "" {
		select {
		case c.deleting <- struct{}{}:
			defer func() { <-c.deleting }()
		case <-ctx.Done():
			return nil, fmt.Errorf("container %s: another delete is under way: %w", c.id, ctx.Err())
		}
		// The name may be another container's by now.
		if now, _ := s.find(c.id); now != c {
			return nil, unknown(c.id)
		}
	}
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil || r.GetExecID() != "" {
		return resp, crun.Words(err, "")
	}
	c.sandbox.reached("task deleted")
	if err := s.drop(ctx, c); err != nil { // the container is gone either way; gc takes the rest back
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("remove container")
	}
	return resp, nil
}

// drop takes a container out, and the sandbox with the last one. The container goes out of the
// table even if remove fails: its name must be free for the engine, and the record still has what
// is left. A second drop does nothing: a create that fails may find its container deleted, and
// another one under its name.
func (s *Service) drop(ctx context.Context, c *container) error {
	s.opening.Lock()
	defer s.opening.Unlock()
	if now, _ := s.find(c.id); now != c {
		return nil
	}
	err := c.remove(ctx)
	s.mu.Lock()
	delete(s.containers, c.id)
	last := len(s.containers) == 0
	if last {
		s.sandbox = nil
	}
	s.mu.Unlock()
	if last {
		err = errors.Join(err, c.sandbox.close(ctx))
	}
	return err
}

// Checkpoint is not offered: a container that is restored has the label that it was saved with.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: a restored container would have the label of the one that was saved: %w", errdefs.ErrNotImplemented)
}

// Shutdown ends the shim when nothing runs in it any more. It comes after each delete and means the
// shim only once nothing is left.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if s.Empty() {
		s.stop()
	}
	return &emptypb.Empty{}, nil
}

// Close passes on the last events. It is called once no call is under way. Containers that are left
// are removed: there is nobody who could serve them.
func (s *Service) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	s.mu.Lock()
	left := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		left = append(left, c)
	}
	s.mu.Unlock()
	var errs []error
	for _, c := range left {
		errs = append(errs, s.drop(ctx, c))
	}
	if _, err := s.TTRPCTaskService.Shutdown(ctx, &taskapi.ShutdownRequest{}); err != nil {
		errs = append(errs, err)
	}
	select {
	case <-s.publisher.ended:
	case <-ctx.Done():
	}
	return errors.Join(errs...)
}
