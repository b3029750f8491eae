// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/runtime/stdio"
	"cloister/sandbox"
	"cloister/sandbox/guestapi"
)

const machinePid = 4711

// world is a fake sandbox, its fake guest and containerd's events in one. It writes down each step
// in order, knows what exists, and can do something at a step.
type world struct {
	t   *testing.T
	dir string
	r   *Runtime

	mu      sync.Mutex
	steps   []string
	at      map[string]func() error // called at a step; its error is the step's
	added   map[string]bool         // containers whose files the guest has
	tasks   map[string]*fakeTask    // by ref
	streams map[guestapi.Token]*fakeStream
	disks   bool                // Halt refuses
	end     sandbox.End         // what Wait says
	ended   chan struct{}       // closed when the machine has ended; nil while there is none
	events  chan guestapi.Event // of the guest
	starts  int                 // of the sandbox
}

type fakeTask struct {
	running bool
	out     []*fakeStream
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), at: map[string]func() error{}, added: map[string]bool{}, tasks: map[string]*fakeTask{},
		streams: map[guestapi.Token]*fakeStream{}, events: make(chan guestapi.Event, 16),
	}
	load := func(string, string) (sandbox.Config, error) { return sandbox.Config{}, w.step("load") }
	w.r = New(t.Context(), load, w.start, "ns", nil, w)
	return w
}

// step writes a step down and does what was asked for at it.
func (w *world) step(name string) error {
	w.mu.Lock()
	w.steps = append(w.steps, name)
	do := w.at[name]
	w.mu.Unlock()
	if do != nil {
		return do()
	}
	return nil
}

// took gives the steps since the last call.
func (w *world) took() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	steps := w.steps
	w.steps = nil
	return steps
}

// do has a function called at a step, nil for none any more.
func (w *world) do(step string, f func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[step] = f
}

// left lists what exists although nothing should.
func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	if w.ended != nil {
		left = append(left, "machine")
	}
	for id := range w.added {
		left = append(left, "files of "+id)
	}
	for ref := range w.tasks {
		left = append(left, "task "+ref)
	}
	for _, s := range w.streams {
		if !s.isClosed() {
			left = append(left, "an open stream")
		}
	}
	slices.Sort(left)
	return left
}

// Publish is containerd's side.
func (w *world) Publish(_ context.Context, event any) error {
	switch e := event.(type) {
	case *eventsapi.TaskCreate:
		return w.step("event create " + e.GetContainerID())
	case *eventsapi.TaskStart:
		return w.step("event start " + e.GetContainerID())
	case *eventsapi.TaskExecAdded:
		return w.step("event exec-added " + e.GetContainerID() + "/" + e.GetExecID())
	case *eventsapi.TaskExecStarted:
		return w.step("event exec-started " + e.GetContainerID() + "/" + e.GetExecID())
	case *eventsapi.TaskExit:
		ref := Ref{Container: e.GetContainerID()}
		if e.GetID() != e.GetContainerID() {
			ref.Exec = e.GetID()
		}
		return w.step(fmt.Sprintf("event exit %s %d", name(ref), e.GetExitStatus()))
	case *eventsapi.TaskDelete:
		return w.step(fmt.Sprintf("event delete %s %d", e.GetContainerID(), e.GetExitStatus()))
	case *eventsapi.TaskPaused:
		return w.step("event paused " + e.GetContainerID())
	case *eventsapi.TaskResumed:
		return w.step("event resumed " + e.GetContainerID())
	case *eventsapi.TaskOOM:
		return w.step("event oom " + e.GetContainerID())
	}
	w.t.Errorf("event of type %T", event)
	return nil
}

func name(ref Ref) string {
	if ref.Exec == "" {
		return ref.Container
	}
	return ref.Container + "/" + ref.Exec
}

// start is the StartSandbox.
func (w *world) start(_ context.Context, _ sandbox.Config, req sandbox.Request) (*Machine, error) {
	if err := w.step("launch " + req.ID); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		w.t.Error("a second machine")
	}
	w.ended = make(chan struct{})
	w.starts++
	one := &fakeSandbox{w, w.ended}
	return &Machine{
		ID: req.ID, Pid: machinePid, ContainerMemory: 1 << 30,
		Facts: map[string]string{"kernel": "fake"}, Sandbox: one, Guest: one,
	}, nil
}

// fakeSandbox is one machine: sandbox and guest.
type fakeSandbox struct {
	*world
	done chan struct{}
}

func (s *fakeSandbox) Add(_ context.Context, c sandbox.Container) (string, error) {
	if err := s.step("add " + c.ID); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added[c.ID] = true
	return "/guest/" + c.ID, nil
}

func (s *fakeSandbox) Remove(_ context.Context, id string) error {
	err := s.step("remove " + id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.added, id)
	return err
}

func (s *fakeSandbox) Sync(_ context.Context, id string) error { return s.step("sync " + id) }

func (s *fakeSandbox) Halt(context.Context) (bool, error) {
	if s.disks {
		return false, s.step("halt refused")
	}
	if err := s.step("halt"); err != nil {
		return false, err
	}
	s.die()
	return true, nil
}

func (s *fakeSandbox) Destroy(context.Context) error {
	err := s.step("destroy")
	s.die()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == s.done {
		s.ended = nil
		clear(s.added)
	}
	return err
}

func (s *fakeSandbox) Wait() sandbox.End {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// die ends this machine; the next one lives.
func (s *fakeSandbox) die() {
	s.mu.Lock()
	current := s.ended == s.done
	s.mu.Unlock()
	if current {
		s.world.die()
	}
}

// die ends the machine, and all that runs in it.
func (w *world) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.tasks)
	for _, s := range w.streams {
		s.end()
	}
	select {
	case <-w.ended:
	default:
		close(w.ended)
	}
}

func (s *fakeSandbox) Task() taskapi.TTRPCTaskService { return &fakeTasks{world: s.world} }

func (s *fakeSandbox) SetTime(context.Context) error { return s.step("set time") }

func (s *fakeSandbox) OpenStream(_ context.Context, token guestapi.Token) (stdio.Stream, error) {
	if err := s.step("stream"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, out := io.Pipe()
	s.streams[token] = &fakeStream{PipeReader: r, out: out, closed: make(chan struct{})}
	return s.streams[token], nil
}

func (s *fakeSandbox) Events(ctx context.Context, handle func(guestapi.Event) error) error {
	for {
		select {
		case e := <-s.events:
			if err := handle(e); err != nil {
				return err
			}
		case <-s.done:
			return errdefs.ErrUnavailable
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fakeStream carries a process's output; what the host writes is dropped.
type fakeStream struct {
	*io.PipeReader
	out    *io.PipeWriter
	once   sync.Once
	closed chan struct{}
}

func (s *fakeStream) Write(p []byte) (int, error) {
	if s.isClosed() {
		return 0, net.ErrClosed
	}
	return len(p), nil
}
func (s *fakeStream) CloseWrite() error { return nil }
func (s *fakeStream) end()              { _ = s.out.Close() }
func (s *fakeStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.PipeReader.Close()
}

func (s *fakeStream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// fakeTasks is the Task API in the guest.
type fakeTasks struct {
	taskapi.TTRPCTaskService
	*world
}

func (f *fakeTasks) make(ref Ref, tokens ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	task := &fakeTask{}
	for _, token := range tokens {
		if s := f.streams[guestapi.Token(token)]; s != nil {
			task.out = append(task.out, s)
		}
	}
	f.tasks[name(ref)] = task
}

// find gives a task, and whether it runs.
func (f *fakeTasks) find(ref Ref) (running bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	task := f.tasks[name(ref)]
	if task == nil {
		return false, fmt.Errorf("%s: %w", name(ref), errdefs.ErrNotFound)
	}
	return task.running, nil
}

func (f *fakeTasks) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := f.step("guest create " + r.GetID()); err != nil {
		return nil, err
	}
	f.make(Ref{Container: r.GetID()}, r.GetStdout(), r.GetStderr())
	return &taskapi.CreateTaskResponse{}, nil
}

func (f *fakeTasks) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	ref := Ref{r.GetID(), r.GetExecID()}
	if err := f.step("guest exec " + name(ref)); err != nil {
		return nil, err
	}
	f.make(ref, r.GetStdout(), r.GetStderr())
	return &emptypb.Empty{}, nil
}

func (f *fakeTasks) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	ref := Ref{r.GetID(), r.GetExecID()}
	if err := f.step("guest start " + name(ref)); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tasks[name(ref)] == nil {
		return nil, fmt.Errorf("start %s: %w", name(ref), errdefs.ErrNotFound)
	}
	f.tasks[name(ref)].running = true
	return &taskapi.StartResponse{Pid: 1}, nil
}

func (f *fakeTasks) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	ref := Ref{r.GetID(), r.GetExecID()}
	if err := f.step(fmt.Sprintf("guest kill %s %d", name(ref), r.GetSignal())); err != nil {
		return nil, err
	}
	if _, err := f.find(ref); err != nil {
		return nil, err
	}
	f.exit(ref, 128+r.GetSignal())
	return &emptypb.Empty{}, nil
}

func (f *fakeTasks) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	ref := Ref{r.GetID(), r.GetExecID()}
	if err := f.step("guest delete " + name(ref)); err != nil {
		return nil, err
	}
	if running, err := f.find(ref); err != nil || running {
		return nil, errors.Join(err, errdefs.ErrFailedPrecondition)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tasks, name(ref))
	if ref.Exec == "" {
		for other := range f.tasks {
			if strings.HasPrefix(other, ref.Container+"/") {
				delete(f.tasks, other)
			}
		}
	}
	return &taskapi.DeleteResponse{}, nil
}

func (f *fakeTasks) Pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.step("guest pause " + r.GetID())
}

func (f *fakeTasks) Resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.step("guest resume " + r.GetID())
}

func (f *fakeTasks) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.step("guest close stdin " + name(Ref{r.GetID(), r.GetExecID()}))
}

func (f *fakeTasks) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.step("guest resize " + name(Ref{r.GetID(), r.GetExecID()}))
}

func (f *fakeTasks) Update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, f.step("guest update " + r.GetID())
}

func (f *fakeTasks) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	if err := f.step("guest stats " + r.GetID()); err != nil {
		return nil, err
	}
	stats, err := anypb.New(&metrics.Metrics{Memory: &metrics.MemoryStat{Usage: 100}, Pids: &metrics.PidsStat{Current: 2}})
	return &taskapi.StatsResponse{Stats: stats}, err
}

// exit ends a process in the guest, after its output.
func (w *world) exit(ref Ref, status uint32) {
	w.mu.Lock()
	task := w.tasks[name(ref)]
	if task == nil {
		w.mu.Unlock()
		return
	}
	task.running = false
	out := task.out
	w.mu.Unlock()
	for _, s := range out {
		s.end()
	}
	w.tell(ref, status)
}

// tell sends an exit event of the guest.
func (w *world) tell(ref Ref, status uint32) {
	id := ref.Exec
	if id == "" {
		id = ref.Container
	}
	w.events <- guestapi.Event{Topic: "/tasks/exit", Body: &eventsapi.TaskExit{ContainerID: ref.Container, ID: id, ExitStatus: status}}
}

// request asks for a container whose bundle it writes; change may be nil.
func (w *world) request(id string, change func(*specs.Spec)) CreateRequest {
	w.t.Helper()
	spec := &specs.Spec{
		Version: "1.1.0",
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Root:    &specs.Root{Path: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
	if change != nil {
		change(spec)
	}
	bundle := filepath.Join(w.dir, id)
	data, err := json.Marshal(spec)
	if err = errors.Join(err, os.MkdirAll(bundle, 0o700), os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)); err != nil {
		w.t.Fatal(err)
	}
	return CreateRequest{ID: id, Bundle: bundle, Stdio: w.stdio(id)}
}

// stdio has one output, a file.
func (w *world) stdio(name string) stdio.Config {
	return stdio.Config{Stdout: "file://" + filepath.Join(w.dir, name+".out")}
}

func (w *world) execRequest(container, exec string) ExecRequest {
	return ExecRequest{
		Ref: Ref{container, exec}, Spec: []byte(`{"args":["true"],"cwd":"/","user":{"uid":0,"gid":0}}`), Stdio: w.stdio(exec),
	}
}

// must fails the test at an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// create and run make a container in that state.
func (w *world) create(id string) {
	w.t.Helper()
	_, err := w.r.Create(w.t.Context(), w.request(id, nil))
	w.must(err)
}

func (w *world) run(id string) {
	w.t.Helper()
	w.create(id)
	_, err := w.r.Start(w.t.Context(), Ref{Container: id})
	w.must(err)
}

func (w *world) exec(id, exec string) error { //nolint:unparam // tests read better with it
	if err := w.r.Exec(w.t.Context(), w.execRequest(id, exec)); err != nil {
		return err
	}
	_, err := w.r.Start(w.t.Context(), Ref{id, exec})
	return err
}

// output is what a process has written.
func (w *world) output(name string) string {
	data, err := os.ReadFile(filepath.Join(w.dir, name+".out"))
	if err != nil {
		w.t.Error(err)
	}
	return string(data)
}
