// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
)

// refusing is an OCI runtime's service whose start of an exec fails.
type refusing struct {
	taskapi.TTRPCTaskService

	start error
	pid   uint32 // what it knows of the exec
	state error
}

func (r refusing) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return nil, r.start
}

func (r refusing) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{Pid: r.pid}, r.state
}

// verdict is a driver whose Verify has one answer.
type verdict struct {
	confine.Driver

	err error
}

func (v verdict) Verify(context.Context, ...confine.Process) error { return v.err }

// errDescriptors is how a driver says that it could not read.
var errDescriptors = &fs.PathError{Op: "open", Path: "/proc/1/attr/current", Err: unix.EMFILE}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "sleep"), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd
}

// folder is a container with a folder, in which the OCI runtime has written a pid for an exec.
func folder(t *testing.T, exec string, pid int, label error) *container {
	t.Helper()
	dir, err := statedir.New(t.TempDir(), "ns", "pod")
	if err != nil {
		t.Fatal(err)
	}
	c := &container{id: "one", sandbox: &sandbox{dir: dir, confine: verdict{err: label}}}
	if err := os.MkdirAll(c.ours(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.ours(), exec+".pid"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// refused starts an exec of a container, which fails, and gives the error.
func refused(t *testing.T, c *container, exec string, service refusing) error {
	t.Helper()
	c.workload = &oci.Workload{}
	s := &Service{TTRPCTaskService: service, containers: map[string]*container{"one": c}}
	_, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "one", ExecID: exec})
	return err
}

var errStreams = status.Error(codes.InvalidArgument, "open stdout")

// TestFailedExecEndsItsProcessAlone: of an exec that has failed its own process is ended, once, and
// no process that only has a pid which is written there. The start's error keeps text and class.
func TestFailedExecEndsItsProcessAlone(t *testing.T) {
	gone := sleeper(t)
	_, _ = gone.Process.Kill(), gone.Wait()
	for _, tt := range []struct {
		name, exec string
		service    refusing
		pid        func(own int) int // what is written for the exec
		first      bool              // the process is the container's first one
		ended      bool
	}{
		{name: "its streams could not be opened", exec: "e", ended: true},
		{name: "it runs and is started once more", exec: "e", service: refusing{pid: 7}},
		{name: "it has ended", exec: "e", pid: func(int) int { return gone.Process.Pid }},
		{name: "its name is that of the first process's file", exec: "init", first: true},
		{name: "it is named init and was made", exec: "init", ended: true},
		{name: "it is unknown", exec: "e", service: refusing{state: status.Error(codes.NotFound, "process does not exist e")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := sleeper(t)
			written := cmd.Process.Pid
			if tt.pid != nil {
				written = tt.pid(written)
			}
			c := folder(t, tt.exec, written, nil)
			if tt.first {
				c.pid = cmd.Process.Pid
			}
			tt.service.start = errStreams
			if err := refused(t, c, tt.exec, tt.service); !errors.Is(err, errStreams) {
				t.Errorf("Start = %v, want %v", err, errStreams)
			}
			wantKilled(t, cmd, tt.ended)
			_, err := os.Stat(filepath.Join(c.ours(), tt.exec+".pid"))
			if tt.ended && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file of the pid is left for a later start: %v", err)
			}
		})
	}
}

// TestExecIsStartedOnce: containerd's service would panic at a second start after a failed one.
func TestExecIsStartedOnce(t *testing.T) {
	c := folder(t, "e", sleeper(t).Process.Pid, nil)
	if err := refused(t, c, "e", refusing{start: errStreams}); !errors.Is(err, errStreams) {
		t.Errorf("Start = %v, want %v", err, errStreams)
	}
	if err := refused(t, c, "e", refusing{start: errors.New("started again")}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start again = %v, want %v", err, errdefs.ErrFailedPrecondition)
	}
}

// TestFailedExecSparesOthersProcess: a pid that another process has by now is not the exec's.
func TestFailedExecSparesOthersProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "sleep 1000 & echo $!; wait $!; echo $?")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	line := make([]byte, 16)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	if err := refused(t, folder(t, "e", pid, nil), "e", refusing{start: errStreams}); !errors.Is(err, errStreams) {
		t.Errorf("Start = %v, want %v", err, errStreams)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil { // which counts unless it had been killed
		t.Error(err)
	}
	if n, err = out.Read(line); err != nil || string(line[:n]) != "143\n" {
		t.Errorf("status of a process that is no child = %q, %v, want that of SIGTERM", line[:n], err)
	}
}

// wantKilled ends a process, and tells whether it had been killed before.
func wantKilled(t *testing.T, cmd *exec.Cmd, want bool) {
	t.Helper()
	if !want {
		// Of two signals SIGKILL is the one that counts.
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait() // hangs where it is not killed
	if got := cmd.ProcessState.String(); got == "signal: killed" != want {
		t.Errorf("the process ended by %s, want it killed: %t", got, want)
	}
}

// TestFailedExecWithWrongLabelEndsTheContainer: what the process has forked has that label too.
func TestFailedExecWithWrongLabelEndsTheContainer(t *testing.T) {
	testenv.NeedRoot(t)
	cmd, other := sleeper(t), sleeper(t)
	c := folder(t, "e", cmd.Process.Pid, errWrong)
	var err error
	if c.group, err = cgroup.At("/cloister-test-failed-exec"); err != nil {
		t.Fatal(err)
	}
	if err := c.group.Create(cgroup.Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.group.Kill(), c.group.Remove(context.WithoutCancel(t.Context()))); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(c.group.Add(cmd.Process.Pid), c.group.Add(other.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	err = refused(t, c, "e", refusing{start: errStreams})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), errWrong.Error()) {
		t.Errorf("Start = %v, want the code of %v and %v", err, errStreams, errWrong)
	}
	wantKilled(t, cmd, true)
	wantKilled(t, other, true)
}

// TestUnreadLabelOfFailedExecEndsItAlone: a lack of descriptors, for which the streams could not be
// opened either, is no wrong label.
func TestUnreadLabelOfFailedExecEndsItAlone(t *testing.T) {
	cmd := sleeper(t)
	c := folder(t, "e", cmd.Process.Pid, errDescriptors) // without a cgroup that could be killed
	err := refused(t, c, "e", refusing{start: errStreams})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), errUnread.Error()) {
		t.Errorf("Start = %v, want the code of %v and %v", err, errStreams, errUnread)
	}
	wantKilled(t, cmd, true)
}

// killing is a service that starts an exec and can kill it.
type killing struct {
	started

	exec *string
}

func (k killing) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	*k.exec = r.GetExecID()
	return &emptypb.Empty{}, nil
}

// TestUnreadLabelOfExecEndsItAlone is the same for an exec that has started.
func TestUnreadLabelOfExecEndsItAlone(t *testing.T) {
	c := &container{id: "one", sandbox: &sandbox{confine: verdict{err: errDescriptors}}}
	var exec string
	s := &Service{TTRPCTaskService: killing{started{pid: os.Getpid()}, &exec}, containers: map[string]*container{"one": c}}
	_, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "one", ExecID: "e"})
	if !errors.Is(err, errUnread) || exec != "e" {
		t.Errorf("Start = %v with exec %q killed, want %v and e", err, exec, errUnread)
	}
}

// TestReadErrorIsNoAnswer: without descriptors a process is neither taken for one that has ended
// nor for somebody else's.
func TestReadErrorIsNoAnswer(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, endedErr := ended(os.Getpid())
	_, oursErr := ofThisShim(os.Getpid())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(endedErr, unix.EMFILE) || !errors.Is(oursErr, unix.EMFILE) {
		t.Errorf("ended = %v, ofThisShim = %v, want %v of both", endedErr, oursErr, unix.EMFILE)
	}
}

// TestExecIDNamesNoOtherFolder: the OCI runtime writes a file by it, and its pid is killed.
func TestExecIDNamesNoOtherFolder(t *testing.T) {
	s := &Service{containers: map[string]*container{"one": {id: "one"}}}
	for _, id := range []string{"", "../two/init", "a/b", ".."} {
		_, err := s.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "one", ExecID: id})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "exec id") {
			t.Errorf("Exec with id %q = %v, want an invalid exec id", id, err)
		}
	}
}
