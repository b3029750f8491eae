// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	optionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/sandbox/cgroup"
)

// The proxy stands on the host for one process in a guest: engines wait for its pid, send it
// signals, look up its cgroup and its network namespace, and take its exit status for the
// process's own. create and exec start it; it is reparented to whoever waits when they end.

// proxyVerb is this program's own: create, exec and run start it.
const proxyVerb = "proxy"

// The proxy's inherited files, after the container's stdin, stdout and stderr.
const (
	fdControl = 3 + iota
	fdTerminal
)

// exitLost is the status of a process whose guest or daemon is gone: as if killed.
const exitLost = 137

// outputLimit bounds how long a process that has ended keeps its proxy because its output is not
// read.
const outputLimit = 10 * time.Second

// order is what a proxy is to do.
type order struct {
	Socket   string          `json:"socket"` // of the daemon
	ID       string          `json:"id"`
	Exec     string          `json:"exec,omitempty"`    // empty: the container's first process
	Bundle   string          `json:"bundle,omitempty"`  // of the container
	Root     string          `json:"root,omitempty"`    // the engine's root file system
	Process  json.RawMessage `json:"process,omitempty"` // of the exec
	Machine  int             `json:"machine,omitempty"` // of an exec: the pid that create answered
	Terminal bool            `json:"terminal,omitempty"`
	Config   string          `json:"config,omitempty"` // a configuration that the caller names
}

// answer is what the proxy says once the process exists, and again once it is in its place.
type answer struct {
	Machine int    `json:"machine,omitempty"` // pid of QEMU, or of the plain container's first process
	Error   string `json:"error,omitempty"`
}

// proxyMain is the proxy's main. The arguments are for people who list processes.
func proxyMain([]string) int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	control := os.NewFile(fdControl, "control")
	unix.CloseOnExec(fdControl)
	var o order
	if err := json.NewDecoder(control).Decode(&o); err != nil {
		return exitLost // who started this has gone
	}
	p := &proxy{order: o}
	p.reached("ordered")
	if o.Terminal {
		unix.CloseOnExec(fdTerminal)
		p.terminal = os.NewFile(fdTerminal, "terminal")
	}
	ctx := context.Background()
	err := p.make(ctx)
	a := answer{Machine: p.machine}
	if err != nil {
		a = answer{Error: plain(err).Error()}
	}
	// Without the acknowledgement nobody knows of this process: its parent was killed before it
	// could write down the pid. It is not in the sandbox's cgroup then, which could not be removed.
	if aerr := agree(control, a); err != nil || aerr != nil {
		if err == nil {
			p.undo(ctx)
		}
		return exitLost
	}
	p.reached("acknowledged")
	a = answer{}
	if err = p.settle(); err != nil {
		a.Error = err.Error()
	}
	p.reached("settled")
	_ = errors.Join(json.NewEncoder(control).Encode(a), control.Close()) // without its parent it stands for the process all the same
	if err != nil {
		p.undo(ctx)
		return exitLost
	}
	go p.forward(ctx, signals)
	return p.hold(ctx)
}

// agree sends the answer and waits until it is acknowledged.
func agree(control *os.File, a answer) error {
	if err := json.NewEncoder(control).Encode(a); err != nil {
		return err
	}
	_, err := io.ReadFull(control, make([]byte, 1))
	return err
}

// proxy is the state of this process.
type proxy struct {
	order

	daemon   *daemon
	machine  int      // pid of QEMU, or of the plain container's first process
	terminal *os.File // the container's end of the pty on this host; nil for none
	streams  *streams
}

// reached tells a step of this process.
func (p *proxy) reached(step string) {
	if p.Exec != "" {
		step += ", of an exec"
	}
	reached("proxy: " + step)
}

// make has the daemon make the process.
func (p *proxy) make(ctx context.Context) (err error) {
	if p.daemon, err = dial(ctx, p.Socket); err != nil {
		return err
	}
	if p.streams, err = openStreams(p.terminal); err != nil {
		return err
	}
	p.reached("connected")
	if p.Exec == "" {
		err = p.create(ctx)
	} else {
		err = p.exec(ctx)
	}
	if err != nil {
		return err
	}
	p.reached("process made")
	return p.streams.start(func() {
		_, _ = p.daemon.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.ID, ExecID: p.Exec, Stdin: true}) // the process has ended, or the daemon
	})
}

func (p *proxy) create(ctx context.Context) error {
	req := &taskapi.CreateTaskRequest{
		ID: p.ID, Bundle: p.Bundle, Terminal: p.Terminal,
		Stdin: p.streams.stdin, Stdout: p.streams.stdout, Stderr: p.streams.stderr,
	}
	if p.Config != "" {
		var err error
		o := &optionsapi.Options{ConfigPath: p.Config}
		if req.Options, err = anypb.New(o); err != nil {
			return err
		}
		req.Options.TypeUrl = string(o.ProtoReflect().Descriptor().FullName()) // as the shim looks for it
	}
	resp, err := p.daemon.Create(ctx, req)
	p.machine = int(resp.GetPid())
	return err
}

func (p *proxy) exec(ctx context.Context) error {
	_, err := p.daemon.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: p.ID, ExecID: p.Exec, Terminal: p.Terminal, Spec: &anypb.Any{TypeUrl: processType, Value: p.Process},
		Stdin: p.streams.stdin, Stdout: p.streams.stdout, Stderr: p.streams.stderr,
	})
	if err != nil {
		return err
	}
	if _, err = p.daemon.Start(ctx, &taskapi.StartRequest{ID: p.ID, ExecID: p.Exec}); err != nil {
		p.forget(ctx)
		return err
	}
	p.machine = p.Machine // with class process the exec has a pid of its own, and may have ended
	return nil
}

// settle moves this process to where engines look for the container: QEMU's cgroup and network
// namespace, and the container's root.
func (p *proxy) settle() error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.machine))
	if errors.Is(err, fs.ErrNotExist) && p.Exec != "" {
		return nil // the exec has ended with its container: its status is what counts
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of the guest: %w", err)
	}
	group, err := sandboxGroup(p.machine)
	if p.Exec != "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)) {
		return nil // as above
	}
	if err != nil {
		return err
	}
	if group != "" {
		if err := cgroup.Join(group, 0); err != nil { // 0 is this process: a pid would be read in its own pid namespace
			return err
		}
	}
	if p.Bundle == "" {
		return nil // engines look for files and processes by the container's first process
	}
	b, err := readBundle(p.Bundle)
	if err != nil {
		return err
	}
	return enterRoot(p.Root, b)
}

// sandboxGroup is the cgroup that the sandbox has made for QEMU, which is in it in place of its
// parent's; empty where it has made none.
func sandboxGroup(machine int) (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", machine))
	if err != nil {
		return "", err
	}
	mine := strings.Split(string(own), "\n")
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.SplitN(line, ":", 3) // cgroups(7): id:controllers:path
		if len(fields) == 3 && fields[2] != "/" && !slices.Contains(mine, line) {
			return fields[2], nil
		}
	}
	return "", nil
}

// hostPID is this process's pid as /proc, and so the daemon, has it.
func hostPID() (int, error) {
	link, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, err
	}
	pid := 0
	_, err = fmt.Sscan(link, &pid)
	return pid, err
}

// undo takes back what make has made.
func (p *proxy) undo(ctx context.Context) {
	_, _ = p.daemon.Kill(ctx, &taskapi.KillRequest{ID: p.ID, ExecID: p.Exec, Signal: uint32(unix.SIGKILL)})
	if p.Exec == "" {
		_, _ = p.daemon.Wait(ctx, &taskapi.WaitRequest{ID: p.ID}) // the delete below says what is wrong
		_, _ = p.daemon.Delete(ctx, &taskapi.DeleteRequest{ID: p.ID})
		return
	}
	p.forget(ctx)
}

// forget has the daemon deliver the rest of an exec's output and forget the exec.
func (p *proxy) forget(ctx context.Context) {
	_, _ = p.daemon.Delete(ctx, &taskapi.DeleteRequest{ID: p.ID, ExecID: p.Exec}) // its container may have been deleted
}

// hold waits for the end of the process and gives its exit status.
func (p *proxy) hold(ctx context.Context) int {
	resp := &taskapi.WaitResponse{}
	if err := p.daemon.client.Call(ctx, holdService, holdMethod, &taskapi.WaitRequest{ID: p.ID, ExecID: p.Exec}, resp); err != nil {
		return exitLost
	}
	p.reached("process ended")
	if p.Exec != "" {
		p.forget(ctx)
	}
	p.streams.wait(outputLimit)
	return int(resp.GetExitStatus())
}

// The call that binds a process in the guest to the life of this one: see shim/bootstrap.
const (
	holdService = "cloister.task.v1.Proxy"
	holdMethod  = "Hold"
	processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
)

// forward sends the signals of this process to the one in the guest.
func (p *proxy) forward(ctx context.Context, signals <-chan os.Signal) {
	p.resize(ctx)
	for s := range signals {
		number, _ := s.(syscall.Signal)
		switch number {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // this process's own
		case unix.SIGWINCH:
			p.resize(ctx)
		default:
			_, _ = p.daemon.Kill(ctx, &taskapi.KillRequest{ID: p.ID, ExecID: p.Exec, Signal: uint32(number)}) // it may have ended
		}
	}
}

// resize gives the terminal in the guest the size of that on this host; an engine that sets none
// has 0 by 0.
func (p *proxy) resize(ctx context.Context) {
	if p.terminal == nil {
		return
	}
	size, err := unix.IoctlGetWinsize(fdTerminal, unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 && size.Col == 0 {
		return
	}
	_, _ = p.daemon.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: p.ID, ExecID: p.Exec, Width: uint32(size.Col), Height: uint32(size.Row)})
}

// errEnded is a proxy that died before it answered.
var errEnded = errors.New("the container's proxy process ended before it answered")
