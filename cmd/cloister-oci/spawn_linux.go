// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cloister/sys"
)

// child is a proxy seen by the verb that has started it. One goroutine uses it. keep or drop ends
// its control socket.
type child struct {
	process

	cmd     *exec.Cmd
	control *os.File
	answers *json.Decoder // from control
	machine int
}

// spawn starts a proxy, gives it its order and waits until the process exists. The caller tells
// the proxy by keep that its pid is known, or lets it undo everything by drop. terminal is the
// container's end of a pty, nil for none; it is closed. An engine's call has this program as parent
// of the proxy, and ends before it; the proxy is then reparented to the nearest subreaper, which is
// what engines are.
func spawn(o order, terminal *os.File) (_ *child, err error) {
	if terminal != nil {
		defer terminal.Close()
	}
	// A socket pair rather than two pipes: order, answers and acknowledgement need both directions,
	// and its end tells each side that the other is gone.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	control, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	c := &child{control: control, answers: json.NewDecoder(control)}
	self, err := os.Executable()
	if err != nil {
		return nil, errors.Join(err, control.Close(), theirs.Close())
	}
	c.cmd = exec.Command(self, proxyVerb, o.ID, o.Exec) //nolint:noctx // it outlives this program
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.cmd.ExtraFiles = []*os.File{fdControl - 3: theirs}
	// A session of its own keeps the proxy from getting the signals of the engine's terminal. The
	// pid and mount namespaces are what engines see of the container.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if terminal != nil {
		// The proxy gets the terminal by descriptor; its streams are made of that.
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = nil, nil, nil
		c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, terminal)
		c.cmd.SysProcAttr.Setctty, c.cmd.SysProcAttr.Ctty = true, fdTerminal // a change of the size is a signal
	}
	err = c.cmd.Start()
	// Otherwise the proxy's death would not be seen as the end of the socket.
	_ = theirs.Close()
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	// drop waits for the proxy, so that no container is left when the error is shown.
	if err := c.agree(o); err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}

// agree sends the order and reads the answer. After it, the record has what tells this proxy from a
// later process of its pid.
func (c *child) agree(o order) error {
	if err := json.NewEncoder(c.control).Encode(o); err != nil {
		return err
	}
	a, err := c.answer()
	if err != nil {
		return err
	}
	c.machine, c.process.PID = a.Machine, c.cmd.Process.Pid
	s, err := sys.StatOf(c.process.PID)
	c.process.Start = s.Start
	return err
}

// answer reads what the proxy says next. A proxy that died says nothing: EOF is errEnded.
func (c *child) answer() (a answer, err error) {
	switch err := c.answers.Decode(&a); {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return a, errEnded
	case err != nil:
		return a, err
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

// keep tells the proxy that its pid is known, and waits until the proxy is in its place. The proxy
// moves into the sandbox's cgroup only now, so that a create that is killed before it leaves no
// process in the cgroup.
func (c *child) keep() error {
	_, err := c.control.Write([]byte{1})
	if err == nil {
		_, err = c.answer()
	}
	return errors.Join(err, c.control.Close())
}

// drop has the proxy undo what it made, and waits until it has. Closing without the acknowledgement
// is the refusal; the proxy undoes what it made and ends.
func (c *child) drop() {
	_ = c.control.Close()
	_ = c.cmd.Wait() // says with which status
}

// wait sends signals on to the proxy until it ends, and gives its exit status. It is for run and
// exec without --detach, which stay in the foreground. The status of a proxy that a signal ended is
// 128 and the signal, as a shell's.
func (c *child) wait() error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for s := range signals {
			_ = c.cmd.Process.Signal(s) // it may have ended
		}
	}()
	err := c.cmd.Wait()
	signal.Stop(signals)
	close(signals)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return exitError(128 + int(ws.Signal()))
		}
		return exitError(exit.ExitCode())
	}
	return err
}

// writePID writes a pid for the engine; path may be empty. Engines read it after this program has
// ended, but some look earlier: it appears whole.
func writePID(path string, pid int) error {
	if path == "" {
		return nil
	}
	return replaceFile(path, []byte(strconv.Itoa(pid)), 0o644)
}

// newTerminal makes a pty whose end for the container changes nothing of what passes: the guest
// has a terminal of its own. Raw: what the guest's terminal has already turned, as newlines, must
// not be turned again.
func newTerminal() (master console.Console, terminal *os.File, err error) {
	master, path, err := console.NewPty()
	if err != nil {
		return nil, nil, err
	}
	// NOCTTY: without it the terminal would become this program's own where that has none.
	terminal, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	// Not SetRaw of package console, which leaves OPOST on.
	if _, err := term.MakeRaw(int(terminal.Fd())); err != nil {
		return nil, nil, errors.Join(err, terminal.Close(), master.Close())
	}
	return master, terminal, nil
}

// terminalFor is the container's end of a pty whose other end has been sent to the engine's
// socket. The master is closed here; the engine has its copy from the message.
func terminalFor(socket string) (*os.File, error) {
	master, terminal, err := newTerminal()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	if err := sendMaster(socket, master); err != nil {
		return nil, errors.Join(fmt.Errorf("--console-socket %q: %w", socket, err), terminal.Close())
	}
	return terminal, nil
}

// sendMaster sends the engine's end with SCM_RIGHTS; the text is its name, as runc sends it. One
// message with one descriptor is all that runc's protocol has.
func sendMaster(socket string, master console.Console) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _, err = conn.WriteMsgUnix([]byte(master.Name()), unix.UnixRights(int(master.Fd())), nil)
	return err
}

// checkTerminal compares what the process wants with what the caller offers. It comes before
// anything is made. A terminal that nobody reads would block the process in the guest as soon as it
// is full.
func checkTerminal(wanted bool, socket string, detached bool) error {
	switch {
	case wanted && socket == "" && detached:
		return errors.New("process.terminal: nothing receives the terminal: pass --console-socket")
	case !wanted && socket != "":
		return errors.New("--console-socket: the process has no terminal: set process.terminal, or leave the flag out")
	}
	return nil
}
