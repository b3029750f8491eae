// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/tests/testenv"
)

// started is an OCI runtime's service that answers a start with a process that is there.
type started struct {
	taskapi.TTRPCTaskService

	pid int
}

func (s started) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return &taskapi.StartResponse{Pid: uint32(s.pid)}, nil
}

var errWrong = errors.New("wrong label")

// wrong finds a wrong label on each process that runs.
type wrong struct{ confine.Driver }

func (wrong) Verify(_ context.Context, p ...confine.Process) error {
	if p[0].Waiting {
		return nil
	}
	return errWrong
}

// TestWrongLabelKillsChildrenToo: a process that was found with a wrong label may have started
// others by then, which have that label as well.
func TestWrongLabelKillsChildrenToo(t *testing.T) {
	testenv.NeedRoot(t)
	group, err := cgroup.At("/cloister-test-wrong-label")
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Create(cgroup.Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(group.Kill(), group.Remove(context.WithoutCancel(t.Context()))); err != nil {
			t.Error(err)
		}
	})
	// It starts a child once it is in the cgroup. The child says that it lives, and later that it
	// has not been killed.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read go; (echo lives; sleep 20; echo survived) & wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	lives := make([]byte, len("lives\n"))
	if _, err := io.ReadFull(out, lives); err != nil {
		t.Fatal(err)
	}
	c := &container{id: "one", pid: cmd.Process.Pid, group: group, sandbox: &sandbox{confine: wrong{}}}
	s := &Service{TTRPCTaskService: started{pid: c.pid}, containers: map[string]*container{"one": c}}
	if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "one"}); !errors.Is(err, errWrong) {
		t.Errorf("Start = %v, want %v", err, errWrong)
	}
	// The pipe ends when nobody has it open.
	if rest, err := io.ReadAll(out); err != nil || strings.Contains(string(rest), "survived") {
		t.Errorf("the child wrote %q, %v, want it killed", rest, err)
	}
	_ = cmd.Wait() // killed
}

// waits is a driver that waits for a process to be under its label, as AppArmor's does.
type waits struct{ confine.Driver }

func (waits) Verify(ctx context.Context, _ ...confine.Process) error { return ctx.Err() }

// TestClientThatLeavesEndsNoContainer: a client that goes away while its process is read back, as a
// probe does at its deadline, must not have the whole container killed for a wrong label.
func TestClientThatLeavesEndsNoContainer(t *testing.T) {
	group, err := cgroup.At("/cloister-test-client-leaves")
	if err != nil {
		t.Fatal(err)
	}
	c := &container{id: "one", pid: os.Getpid(), group: group, sandbox: &sandbox{confine: waits{}}}
	s := &Service{TTRPCTaskService: started{pid: c.pid}, containers: map[string]*container{"one": c}}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.Start(ctx, &taskapi.StartRequest{ID: "one", ExecID: "probe"}); err != nil {
		t.Errorf("Start for a client that has gone = %v", err)
	}
}
