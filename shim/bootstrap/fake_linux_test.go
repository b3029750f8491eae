// SPDX-License-Identifier: Apache-2.0

package bootstrap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/runtime/stdio"
	"cloister/shim/bootstrap"
	"cloister/shim/events"
	"cloister/shim/interceptor"
)

// fakeEnv makes the test binary a shim; its value is a mode. The daemon inherits it from start, and
// start from containerd.
const fakeEnv = "CLOISTER_FAKE_SHIM"

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeEnv); mode != "" {
		os.Exit(bootstrap.Main(context.Background(), fakeConfig(mode)))
	}
	os.Exit(m.Run())
}

// fakeConfig is a shim whose tasks are no processes: a task writes a line about the daemon to its
// stdout and, unless its id starts with "sleep", ends with status 7.
func fakeConfig(mode string) bootstrap.Config {
	return bootstrap.Config{
		Name: "io.containerd.fake.v2", Version: "1.2.3", Revision: "abc",
		Mounts: &types.MountCapabilities{Types: []string{"erofs", "ext4"}, Transforms: []string{"mkfs"}},
		Serve: func(ctx context.Context, d *bootstrap.Daemon) error {
			switch mode {
			case "refuse":
				return errors.New("kvm: /dev/kvm is not readable")
			case "crash":
				os.Exit(9)
			}
			p := events.New(ctx, d.TTRPCAddress, d.Namespace)
			f := &fake{daemon: d, events: p, tasks: map[string]*fakeTask{}}
			err := d.ServeTTRPC(ctx, interceptor.Unary, func(s *ttrpc.Server) { bootstrap.RegisterTask(s, f) })
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(err, p.Close(closing))
		},
		Delete: func(_ context.Context, r bootstrap.Request) (bootstrap.Exit, error) {
			if err := os.WriteFile(filepath.Join(os.TempDir(), "deleted-"+r.ID), []byte(r.Bundle), 0o600); err != nil {
				return bootstrap.Exit{}, err
			}
			return bootstrap.Exit{Pid: 42, Status: 137, At: time.Now()}, nil
		},
		Info: func(_ context.Context, options *anypb.Any, info *types.RuntimeInfo) error {
			info.Annotations["options"] = options.GetTypeUrl()
			return nil
		},
	}
}

// fake is the task service. What it does not know is not implemented.
type fake struct {
	notImplemented
	daemon *bootstrap.Daemon
	events *events.Publisher

	mu    sync.Mutex
	tasks map[string]*fakeTask
}

type fakeTask struct {
	id     string
	io     *stdio.IO
	guest  net.Conn
	status task.Status
	exit   uint32
	exited chan struct{}
}

func (f *fake) find(id string) (*fakeTask, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tasks[id]
	if !ok {
		return nil, fmt.Errorf("task %q: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

func (f *fake) pid() uint32 { return uint32(os.Getpid()) }

func (f *fake) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if strings.HasPrefix(r.ID, "panic") {
		panic("a bug")
	}
	host, guest, err := streamPair()
	if err != nil {
		return nil, err
	}
	io, err := stdio.Open(ctx, stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, ContainerID: r.ID, Namespace: f.daemon.Namespace})
	if err != nil {
		return nil, err
	}
	if err := io.Start(stdio.Streams{Stdout: host}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.tasks[r.ID] = &fakeTask{id: r.ID, io: io, guest: guest, status: task.Status_CREATED, exited: make(chan struct{})}
	f.mu.Unlock()
	return &taskapi.CreateTaskResponse{Pid: f.pid()},
		f.events.Publish(ctx, &eventsapi.TaskCreate{ContainerID: r.ID, Bundle: r.Bundle, Pid: f.pid()})
}

func (f *fake) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	t, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := f.events.Publish(ctx, &eventsapi.TaskStart{ContainerID: r.ID, Pid: f.pid()}); err != nil {
		return nil, err
	}
	f.mu.Lock()
	t.status = task.Status_RUNNING
	f.mu.Unlock()
	if _, err := t.guest.Write([]byte(facts(f.daemon))); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(t.id, "sleep") {
		f.end(ctx, t, 7)
	}
	return &taskapi.StartResponse{Pid: f.pid()}, nil
}

// facts is what a task says about the daemon that it is in.
func facts(d *bootstrap.Daemon) string {
	mounts, _ := os.Readlink("/proc/self/ns/mnt")
	dir, _ := os.Getwd()
	sid, _ := unix.Getsid(0)
	return fmt.Sprintf("group=%s bundle=%s mounts=%s leader=%v dir=%s\n", d.Group, d.Bundle, mounts, sid == os.Getpid(), dir)
}

func (f *fake) end(ctx context.Context, t *fakeTask, status uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.status == task.Status_STOPPED {
		return
	}
	t.status, t.exit = task.Status_STOPPED, status
	t.guest.Close()
	close(t.exited)
	_ = f.events.Publish(ctx, &eventsapi.TaskExit{
		ContainerID: t.id, ID: t.id, Pid: f.pid(),
		ExitStatus: status, ExitedAt: timestamppb.Now(),
	})
}

func (f *fake) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	t, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	f.end(ctx, t, 128+r.Signal)
	return &emptypb.Empty{}, nil
}

func (f *fake) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	t, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.exited:
		return &taskapi.WaitResponse{ExitStatus: t.exit, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fake) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	t, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &taskapi.StateResponse{ID: r.ID, Pid: f.pid(), Status: t.status, ExitStatus: t.exit}, nil
}

func (f *fake) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: f.pid(), TaskPid: f.pid(), Version: r.ID}, nil
}

func (f *fake) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	if _, err := f.find(r.ID); err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*task.ProcessInfo{{Pid: f.pid()}}}, nil
}

func (f *fake) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	t, err := f.find(r.ID)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.io.Wait(ctx), t.io.Close()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	delete(f.tasks, r.ID)
	f.mu.Unlock()
	if err := f.events.Publish(ctx, &eventsapi.TaskDelete{
		ContainerID: r.ID, Pid: f.pid(), ExitStatus: t.exit,
		ExitedAt: timestamppb.Now(),
	}); err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: f.pid(), ExitStatus: t.exit, ExitedAt: timestamppb.Now()}, nil
}

func (f *fake) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tasks) == 0 {
		f.daemon.Stop()
	}
	return &emptypb.Empty{}, nil
}

func streamPair() (host, guest *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "stream")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, nil, err
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}

// notImplemented is the rest of the task API.
type notImplemented struct{}

func (notImplemented) Pause(context.Context, *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) Resume(context.Context, *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) Exec(context.Context, *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) ResizePty(context.Context, *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) CloseIO(context.Context, *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) Update(context.Context, *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return nil, errdefs.ErrNotImplemented
}

func (notImplemented) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return nil, errdefs.ErrNotImplemented
}
