// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// runcShim is a containerd whose shim for runc calls cloister-oci (BinaryName).
type runcShim struct {
	*bed

	c *host.Containerd
}

// TestRuncShim: containerd-shim-runc-v2 drives cloister-oci in the place of runc.
func TestRuncShim(t *testing.T) {
	b := newBed(t)
	c := b.StartContainerd(t, host.Options{Version: host.Current, Env: []string{"CONTAINERD_NAMESPACE=" + b.parent}})
	busybox, err := images.Busybox(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	file := b.Dir + "/busybox.tar"
	if err := images.Save(file, map[string]v1.Image{images.BusyboxName: busybox}); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "images", "import", file)
	s := &runcShim{b, c}
	b.before = b.look(t)
	tally(t, "runcshim", []part{{"Run", s.testRun}, {"Life", s.testLife}, {"Refused", s.testRefused}})
}

// args are those of ctr run for the container one.
func (s *runcShim) args(options []string, command ...string) []string {
	args := append([]string{"run", "--runc-binary", s.program}, options...)
	return append(append(args, images.BusyboxName, "one"), command...)
}

func (s *runcShim) testRun(t *testing.T) {
	r := s.c.Run(t, s.args([]string{"--rm"}, "sh", "-c", "uname -r; echo err >&2; exit 7")...)
	if strings.Contains(r.Stdout, "cloister") != (s.class != "process") || r.Code != 7 || !strings.Contains(r.Stderr, "err") {
		t.Errorf("ctr run = %+v, want the guest's kernel, err and 7", r)
	}
	s.testInput(t)
}

// testInput: the end of the input reaches the container. ctr forgets an end that comes before the
// container has been created.
func (s *runcShim) testInput(t *testing.T) {
	t.Helper()
	cmd := s.c.Ctr(t.Context(), s.args([]string{"--rm"}, "sh", "-c", "echo ready; cat")...)
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
	got := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "ready\n" {
		t.Errorf("output = %q, %v", got, err)
	}
	if _, err := io.WriteString(in, "typed\n"); err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil || string(rest) != "typed\n" {
		t.Errorf("cat = %q, %v", rest, err)
	}
}

// testLife takes one container through everything that containerd asks of its runtime.
func (s *runcShim) testLife(t *testing.T) {
	c := s.c
	c.Must(t, s.args([]string{"--detach"}, "sh", "-c", "trap 'exit 9' TERM; touch /up; sleep 1000 & wait")...)
	const command = "until [ -e /up ]; do sleep 0.1; done; echo out; echo err >&2; exit 5" // process 1 ignores TERM without a trap
	if r := c.Run(t, "task", "exec", "--exec-id", "e", "one", "sh", "-c", command); r.Stdout != "out\n" ||
		r.Stderr != "err\n" || r.Code != 5 {
		t.Errorf("ctr task exec = %+v", r)
	}
	if got := c.Must(t, "task", "ps", "one"); strings.Count(got, "\n") != 2 {
		t.Errorf("ctr task ps = %q, want only the proxy", got)
	}
	if got := c.Must(t, "task", "metrics", "one"); !strings.Contains(got, "memory") {
		t.Errorf("ctr task metrics = %q", got)
	}
	if s.class != "process" {
		s.sits(t, s.proxy(t))
	}
	c.Must(t, "task", "pause", "one")
	s.awaitTask(t, "PAUSED")
	c.Must(t, "task", "resume", "one")
	c.Must(t, "task", "kill", "--signal", "TERM", "one")
	s.awaitTask(t, "STOPPED")
	if r := c.Run(t, "task", "delete", "one"); !strings.Contains(r.Stderr, "non-zero exit code 9") {
		t.Errorf("ctr task delete = %+v, want the status 9", r)
	}
	c.Must(t, "containers", "delete", "one")
}

// awaitTask waits for a state of the task one.
func (s *runcShim) awaitTask(t *testing.T, want string) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		if got := s.c.Must(t, "task", "ls"); !strings.Contains(got, want) {
			return "tasks: " + got + ", want " + want
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
}

// proxy is the pid of the only container's proxy.
func (s *runcShim) proxy(t *testing.T) int {
	t.Helper()
	for pid, line := range s.Processes(t) {
		if strings.Contains(line, "cloister-oci proxy") {
			return pid
		}
	}
	t.Fatal("no proxy")
	return 0
}

func (s *runcShim) testRefused(t *testing.T) {
	r := s.c.Run(t, s.args([]string{"--rm", "--net-host"}, "true")...)
	if (r.Code == 0) != (s.class == "process") || r.Code != 0 && !strings.Contains(r.Stderr, "linux.namespaces") {
		t.Errorf("ctr run --net-host = %+v, want an error that names linux.namespaces", r)
	}
	r = s.c.Run(t, s.args([]string{"--rm"}, "nothing")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "nothing") {
		t.Errorf("ctr run of a program that is not there = %+v", r)
	}
}
