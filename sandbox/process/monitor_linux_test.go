// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	runc "github.com/containerd/go-runc"
)

// noted notes the commands that a monitor is to start, and starts none.
type noted struct {
	runc.ProcessMonitor

	what *[]string
}

func (s noted) Start(*exec.Cmd) (chan runc.Exit, error) {
	*s.what = append(*s.what, "start")
	return nil, errors.New("not started")
}

func (s noted) StartLocked(c *exec.Cmd) (chan runc.Exit, error) { return s.Start(c) }

// TestClientsStepAside: go-runc's own command that kills all processes of a container has them step
// aside first, and no other command does.
func TestClientsStepAside(t *testing.T) {
	was := runc.Monitor
	t.Cleanup(func() { runc.Monitor = was })
	var got []string
	runc.Monitor = monitor{
		ProcessMonitor: noted{what: &got}, null: func() *os.File { return nil },
		aside: func(id string) { got = append(got, "aside "+id) },
	}
	r := &runc.Runc{Command: "runc", Root: "/root"}
	for _, tt := range []struct {
		name string
		call func(ctx context.Context) error
		want string // that steps aside
	}{
		{"all", func(ctx context.Context) error { return r.Kill(ctx, "one", 9, &runc.KillOpts{All: true}) }, "aside one"},
		{"the first process", func(ctx context.Context) error { return r.Kill(ctx, "one", 9, nil) }, ""},
		{"another signal", func(ctx context.Context) error { return r.Kill(ctx, "one", 15, &runc.KillOpts{All: true}) }, ""},
		{"pause", func(ctx context.Context) error { return r.Pause(ctx, "one") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got = nil
			_ = tt.call(t.Context()) // not started
			want := []string{"start"}
			if tt.want != "" {
				want = []string{tt.want, "start"}
			}
			if len(got) != len(want) || got[0] != want[0] {
				t.Errorf("what happened is %q, want %q", got, want)
			}
		})
	}
}
