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

// proxyVerb is this program's own: create, exec and run start it. It is not in the usage text:
// nobody else is to call it.
const proxyVerb = "proxy"

// The proxy's inherited files, after the container's stdin, stdout and stderr. The order is a
// contract between this program and itself, by exec.Cmd.ExtraFiles.
const (
	fdControl = 3 + iota
	fdTerminal
)

// exitLost is the status of a process whose guest or daemon is gone: as if killed. 128 and SIGKILL:
// engines show that as "killed", which is true.
const exitLost = 137

// outputLimit bounds how long a process that has ended keeps its proxy because its output is not
// read. An engine that stopped reading must not keep the container from ending; beyond this, the
// rest of the output is lost.
const outputLimit = 10 * time.Second

// order is what a proxy is to do. It comes over the control socket and not in the arguments, which
// every user of the host can read in /proc.
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

// answer is what the proxy says once the process exists, and again once it is in its place. The
// first one has the machine's pid, or why there is no process; the second one only an error.
type answer struct {
	Machine int    `json:"machine,omitempty"` // pid of QEMU, or of the plain container's first process
	Error   string `json:"error,omitempty"`
}

// proxyMain is the proxy's main. The arguments are for people who list processes. It returns the
// exit status, and has undone what it made where it did not get as far as holding.
func proxyMain([]string) int {
	// All signals from the very start: one that arrives before the process in the guest exists must
	// not kill the proxy, and is sent on later.
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
		// The engine's log gets the daemon's text.
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
	// Signals that have come since the start wait in the channel.
	go p.forward(ctx, signals)
	return p.hold(ctx)
}

// agree sends the answer and waits until it is acknowledged. The parent acknowledges after it has
// written the record; closing the socket instead is a refusal.
func agree(control *os.File, a answer) error {
	if err := json.NewEncoder(control).Encode(a); err != nil {
		return err
	}
	_, err := io.ReadFull(control, make([]byte, 1))
	return err
}

// proxy is the state of this process. One goroutine makes and holds; forward uses only the daemon
// and the ids.
type proxy struct {
	order

	daemon   *daemon
	machine  int      // pid of QEMU, or of the plain container's first process
	terminal *os.File // the container's end of the pty on this host; nil for none
	streams  *streams
}

// reached tells a step of this process. Tests kill the proxy at each step; without the tag
// crashtest it does nothing.
func (p *proxy) reached(step string) {
	if p.Exec != "" {
		step += ", of an exec"
	}
	reached("proxy: " + step)
}

// make has the daemon make the process. On an error the daemon has no such process.
func (p *proxy) make(ctx context.Context) (err error) {
	if p.daemon, err = dial(ctx, p.Socket); err != nil {
		return err
	}
	// Before the call: the daemon opens the streams by the paths that are made here, while this
	// process holds them open.
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
	// After the call, since the daemon has opened its ends now.
	return p.streams.start(func() {
		_, _ = p.daemon.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.ID, ExecID: p.Exec, Stdin: true}) // the process has ended, or the daemon
	})
}

// create has the daemon create the container's first process. The answer's pid is the machine's.
func (p *proxy) create(ctx context.Context) error {
	req := &taskapi.CreateTaskRequest{
		ID: p.ID, Bundle: p.Bundle, Terminal: p.Terminal,
		Stdin: p.streams.stdin, Stdout: p.streams.stdout, Stderr: p.streams.stderr,
	}
	// The configuration of the caller reaches the shim as containerd's runtime options do.
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

// exec has the daemon add a process and starts it: the verb exec has no second step.
func (p *proxy) exec(ctx context.Context) error {
	_, err := p.daemon.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: p.ID, ExecID: p.Exec, Terminal: p.Terminal, Spec: &anypb.Any{TypeUrl: processType, Value: p.Process},
		Stdin: p.streams.stdin, Stdout: p.streams.stdout, Stderr: p.streams.stderr,
	})
	if err != nil {
		return err
	}
	if _, err = p.daemon.Start(ctx, &taskapi.StartRequest{ID: p.ID, ExecID: p.Exec}); err != nil {
		// Exec has reserved the id and the streams, which only a delete gives back.
		p.forget(ctx)
		return err
	}
	// The pid is for settle alone; that of the container's machine exists in any case.
	p.machine = p.Machine // with class process the exec has a pid of its own, and may have ended
	return nil
}

// settle moves this process to where engines look for the container: QEMU's cgroup and network
// namespace, and the container's root. Podman reads statistics from the pid's cgroup and, with a
// user namespace, sets the network up through /proc/PID/ns/net. It comes after the acknowledgement:
// see proxyMain.
func (p *proxy) settle() error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.machine))
	if errors.Is(err, fs.ErrNotExist) && p.Exec != "" {
		return nil // the exec has ended with its container: its status is what counts
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	// Only this thread enters. main has locked it, so /proc/PID/ns/net of the process shows this
	// namespace.
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of the guest: %w", err)
	}
	// Looked up, and not told by the daemon: the path is the sandbox's own matter.
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
// parent's; empty where it has made none. It compares with this process's own lines: in hybrid
// hosts each hierarchy has a line, and the sandbox has made a group in some of them only.
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
		// A path may hold colons, hence three parts at most.
		fields := strings.SplitN(line, ":", 3) // cgroups(7): id:controllers:path
		if len(fields) == 3 && fields[2] != "/" && !slices.Contains(mine, line) {
			return fields[2], nil
		}
	}
	return "", nil
}

// hostPID is this process's pid as /proc, and so the daemon, has it. os.Getpid gives 1: the proxy
// is process 1 of a pid namespace of its own. Its /proc is the host's until enterRoot.
func hostPID() (int, error) {
	link, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, err
	}
	pid := 0
	_, err = fmt.Sscan(link, &pid)
	return pid, err
}

// undo takes back what make has made. Errors are not reported: there is nobody to report to, and
// delete of the container finds what is left. A process is deleted only once it has ended. The
// daemon is asked to leave: an engine that deleted the container while it was being made found
// none, and a daemon that was busy.
func (p *proxy) undo(ctx context.Context) {
	_, _ = p.daemon.Kill(ctx, &taskapi.KillRequest{ID: p.ID, ExecID: p.Exec, Signal: uint32(unix.SIGKILL)})
	_, _ = p.daemon.Wait(ctx, &taskapi.WaitRequest{ID: p.ID, ExecID: p.Exec}) // the delete below says what is wrong
	p.forget(ctx)
	if p.Exec == "" {
		_, _ = p.daemon.Shutdown(ctx, &taskapi.ShutdownRequest{ID: p.ID})
	}
}

// forget has the daemon deliver the rest of the process's output and forget the process. An exec
// that is not deleted would keep its streams and its id in the guest.
func (p *proxy) forget(ctx context.Context) {
	_, _ = p.daemon.Delete(ctx, &taskapi.DeleteRequest{ID: p.ID, ExecID: p.Exec}) // its container may have been deleted
}

// hold waits for the end of the process and gives its exit status. The call ends when the process
// does, or when the connection breaks: the other end is gone then, and the guest with it. The
// daemon sees the same break when the proxy is killed, and kills the process in the guest.
func (p *proxy) hold(ctx context.Context) int {
	resp := &taskapi.WaitResponse{}
	if err := p.daemon.client.Call(ctx, holdService, holdMethod, &taskapi.WaitRequest{ID: p.ID, ExecID: p.Exec}, resp); err != nil {
		return exitLost
	}
	p.reached("process ended")
	if p.Exec != "" {
		p.forget(ctx)
	}
	// The exit status must come after the output: engines close the log when the pid ends.
	p.streams.wait(outputLimit)
	return int(resp.GetExitStatus())
}

// The call that binds a process in the guest to the life of this one: see shim/bootstrap. It is not
// in containerd's API: there, a client that goes away leaves the process running.
const (
	holdService = "cloister.task.v1.Proxy"
	holdMethod  = "Hold"
	processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
)

// forward sends the signals of this process to the one in the guest. SIGKILL and SIGSTOP have no
// handler: for SIGKILL see hold; SIGSTOP stops the proxy alone.
func (p *proxy) forward(ctx context.Context, signals <-chan os.Signal) {
	p.resize(ctx)
	for s := range signals {
		number, _ := s.(syscall.Signal)
		switch number {
		// Go's runtime uses SIGURG to preempt goroutines.
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // this process's own
		case unix.SIGWINCH:
			p.resize(ctx)
		default:
			_, _ = p.daemon.Kill(ctx, &taskapi.KillRequest{ID: p.ID, ExecID: p.Exec, Signal: uint32(number)}) // it may have ended
		}
	}
}

// resize gives the terminal in the guest the size of that on this host; an engine that sets none
// has 0 by 0. It is called at the start and at each SIGWINCH, which the kernel sends since the
// terminal is this process's controlling one.
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

// errEnded is a proxy that died before it answered. The reason is in the daemon's log, if anywhere.
var errEnded = errors.New("the container's proxy process ended before it answered")
