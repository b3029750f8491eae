// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"sync"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cloister/cmd/internal/config"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/statedir"
)

// runDebug is the verb debug. It connects to the sandbox's debug socket; the shim joins it with a
// stream of the guest.
func runDebug(std stdio) *cobra.Command {
	c := newCommand(std, "debug ID [COMMAND [ARGUMENT...]]",
		"Runs a shell in the guest beside its containers: it sees all their processes, mounts and links. The program is a static one\n"+
			"of the host, named by `shell` under [debug] in the config (as "+exampleShell+
			"), and is sent into the guest. Without that line at the\n"+
			"sandbox's start there is no shell. A terminal gets the guest's bytes unchanged: a hostile guest can send escapes.\n\n"+
			"All that follows ID is the command, and no shell reads it. For a shell's syntax: debug ID sh -c 'ls /proc/*/exe'.")
	c.ofSandboxes()
	// Otherwise `debug ID ls -l` would fail for an unknown flag -l.
	c.Flags().SetInterspersed(false) // what follows ID is the command's
	return c.runs(1, -1, func(ctx context.Context, rest []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		// Said here with the remedy: without the setting at the sandbox's start there is no socket
		// to connect to.
		if s.config.Debug.Shell == "" {
			file := s.file
			if file == "" {
				file = config.Path
			}
			return fmt.Errorf("shells in guests are off: put shell = %q under [debug] in %s, and restart the sandbox: %w",
				exampleShell, file, errdefs.ErrFailedPrecondition)
		}
		b, err := s.find(rest[0])
		if err != nil {
			return err
		}
		conn, err := dialDebug(ctx, b.dir)
		// ECONNREFUSED: the socket of a shim that is gone.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("sandbox %s is %s and accepts no shell: it was started without [debug] shell in its config, or "+
				"has no guest: restart it: %w", b.name(), b.state(), errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return orRoot(err)
		}
		defer conn.Close()
		// The context ends with the first ^C of a session without a terminal.
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		// After the connection: a missing program is the rarer mistake.
		program, err := os.Open(s.config.Debug.Shell)
		if err != nil {
			return fmt.Errorf("debug.shell: %w", err)
		}
		defer program.Close()
		d := debugger{conn: conn, out: std.out}
		return d.run(program, shellArgs(rest[1:]))
	})
}

// shellArgs has the shell run a command as it is: no word is split, joined or globbed. The last
// "sh" is $0; the words after it are "$@", as they were typed.
func shellArgs(command []string) []string {
	if len(command) == 0 {
		return []string{"sh"}
	}
	return append([]string{"sh", "-c", `exec "$@"`, "sh"}, command...)
}

const exampleShell = "/usr/bin/busybox"

// dialDebug connects by the folder's descriptor: the path may be longer than a socket's name.
// sun_path has 108 bytes; a folder with a namespace and an id of 64 digits does not fit.
func dialDebug(ctx context.Context, dir statedir.Dir) (net.Conn, error) {
	folder, err := os.OpenFile(dir.String(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), statedir.DebugSocket))
}

// debugger is the host's end of one shell. Two goroutines write: input, and the changes of the
// terminal's size.
type debugger struct {
	conn net.Conn
	out  io.Writer

	mu sync.Mutex // of frames that are sent
}

// run sends the program, and then is its terminal or its pipes until it ends. With a terminal on
// both sides the guest gets one as well. With output alone on a terminal, the guest's bytes are
// made visible; a pipe or file gets them as they are.
func (d *debugger) run(program io.Reader, args []string) error {
	shell := guestapi.Shell{Args: args, Term: os.Getenv("TERM")}
	terminal, notIn := console.ConsoleFromFile(os.Stdin)
	_, notOut := console.ConsoleFromFile(os.Stdout)
	switch {
	case notOut == nil && notIn == nil:
		size, err := terminal.Size()
		if err != nil {
			return err
		}
		shell.Terminal, shell.Window = true, guestapi.Window{Rows: size.Height, Columns: size.Width}
	case notOut == nil:
		d.out = visible{d.out}
	}
	// Before raw mode: an error here is printed to a terminal that is still as it was.
	if err := d.send(program, shell); err != nil {
		return d.explain(err)
	}
	if shell.Terminal {
		if _, err := term.MakeRaw(int(terminal.Fd())); err != nil {
			return err
		}
		// Also when the guest hangs up: the user's shell needs its terminal back.
		defer terminal.Reset() //nolint:errcheck // there is no other way
		defer d.followSize(terminal)()
	}
	go d.input(os.Stdin) // ends with the command
	return d.output()
}

// send sends the request and then the program, in frames of the contract's size; an empty frame is
// its end.
func (d *debugger) send(program io.Reader, shell guestapi.Shell) error {
	if err := guestapi.WriteFrameJSON(d.conn, guestapi.FrameShell, shell); err != nil {
		return err
	}
	buffer := make([]byte, guestapi.MaxFrame)
	for {
		n, err := program.Read(buffer)
		// A program that cannot be read ends the attempt; the guest gets half a program and no end,
		// and runs nothing.
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("debug.shell: %w", err)
		}
		if sent := d.frame(guestapi.FrameProgram, buffer[:n]); sent != nil || n == 0 { // the empty one is the end
			return sent
		}
	}
}

// explain prefers what the guest said to the broken connection that it left. The guest has answered
// why it closes, for example that the program is too large, while the host was still sending.
func (d *debugger) explain(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return d.output()
	}
	return err
}

// frame sends one frame whole: two writers would mix theirs.
func (d *debugger) frame(kind guestapi.FrameKind, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return guestapi.WriteFrame(d.conn, kind, data)
}

// followSize tells the guest of each change of the terminal's size until it is called off. The size
// at the start is in the request.
func (d *debugger) followSize(terminal console.Console) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	go func() {
		for range changes {
			size, err := terminal.Size()
			if err == nil {
				d.mu.Lock()
				// An error is of a connection that output reports.
				_ = guestapi.WriteFrameJSON(d.conn, guestapi.FrameWindow, guestapi.Window{Rows: size.Height, Columns: size.Width})
				d.mu.Unlock()
			}
		}
	}()
	return func() { signal.Stop(changes); close(changes) }
}

// input sends what is typed. An empty frame is the end of input; the command may go on.
func (d *debugger) input(from io.Reader) {
	buffer := make([]byte, guestapi.MaxFrame)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			err = errors.Join(err, d.frame(guestapi.FrameInput, buffer[:n]))
		}
		if err != nil {
			// Also after an error of the connection, where it does nothing.
			_ = d.frame(guestapi.FrameInput, nil)
			return
		}
	}
}

// output prints what comes until the shell has ended. All of it is the guest's word. The
// connection's end without a status is no success: a guest that dies must not look like a command
// that ended well.
func (d *debugger) output() error {
	for {
		frame, err := guestapi.ReadFrame(d.conn, guestapi.FrameOutput, guestapi.FrameExit, guestapi.FrameError)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the sandbox closed the connection: it has ended, or all its shells are in use: %w", errdefs.ErrUnavailable)
		case err != nil:
			return err
		case frame.Kind == guestapi.FrameError:
			return fmt.Errorf("the guest: %s: %w", guestapi.Text(string(frame.Data), guestapi.MaxFrame), errdefs.ErrUnknown)
		case frame.Kind == guestapi.FrameExit && frame.Data[0] == 0:
			return nil
		// The status of the command is this program's own.
		case frame.Kind == guestapi.FrameExit:
			return exitError(frame.Data[0])
		}
		if _, err := d.out.Write(frame.Data); err != nil {
			return err
		}
	}
}
