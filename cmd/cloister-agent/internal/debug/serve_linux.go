// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/reap"
	"cloister/sandbox/guestapi"
)

// maxProgram bounds what is taken into the guest's memory.
const maxProgram = 32 << 20

// Serve runs what the host asks for on a DebugStream, and ends it when the host hangs up. It closes
// the stream.
func Serve(ctx context.Context, monitor *reap.Monitor, stream io.ReadWriteCloser) {
	defer stream.Close()
	status, err := serve(ctx, monitor, stream)
	if err != nil {
		_ = guestapi.WriteFrame(stream, guestapi.FrameError, []byte(guestapi.Text(err.Error(), guestapi.MaxFrame)))
		return
	}
	_ = guestapi.WriteFrame(stream, guestapi.FrameExit, []byte{byte(status)})
}

func serve(ctx context.Context, monitor *reap.Monitor, stream io.ReadWriteCloser) (int, error) {
	frame, err := guestapi.ReadFrame(stream, guestapi.FrameShell)
	if err != nil {
		return 0, err
	}
	var shell guestapi.Shell
	if err := json.Unmarshal(frame.Data, &shell); err != nil || len(shell.Args) == 0 {
		return 0, fmt.Errorf("what is to run: %w", errors.Join(err, guestapi.ErrProtocol))
	}
	program, err := receive(stream)
	if err != nil {
		return 0, err
	}
	defer program.Close()
	// The pid's path and not "self": what runs is another process.
	cmd := exec.CommandContext(ctx, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program.Fd()))
	cmd.Args, cmd.Dir = shell.Args, "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=" + shell.Term}
	files, err := attach(cmd, shell)
	if err != nil {
		return 0, err
	}
	defer files.close()
	ended, err := monitor.Start(cmd)
	files.closeTheirs()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", shell.Args[0], err)
	}
	go files.input(stream, cmd.Process.Pid) // ends with the stream, which Serve closes
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		_, _ = io.CopyBuffer(guestapi.Frames{Kind: guestapi.FrameOutput, To: stream}, onlyReader{files.out},
			make([]byte, guestapi.MaxFrame))
	}()
	status, err := monitor.Wait(cmd, ended)
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it has left in its session
	<-delivered
	return status, err
}

// receive takes the program into memory.
func receive(stream io.Reader) (*os.File, error) {
	fd, err := unix.MemfdCreate("shell", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the program: %w", err)
	}
	program := os.NewFile(uintptr(fd), "shell")
	for size := 0; ; {
		frame, err := guestapi.ReadFrame(stream, guestapi.FrameProgram)
		if err == nil && len(frame.Data) == 0 {
			// Only a file that nobody can write can be executed.
			readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
			return readable, errors.Join(err, program.Close())
		}
		if size += len(frame.Data); size > maxProgram {
			err = fmt.Errorf("a program of more than %d bytes: %w", maxProgram, guestapi.ErrProtocol)
		}
		if err == nil {
			_, err = program.Write(frame.Data)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("receive the program: %w", err), program.Close())
		}
	}
}

// streams are the agent's ends of a shell's standard streams, and the shell's own until it has been
// started.
type streams struct {
	in, out *os.File // one file where there is a terminal
	resize  func(guestapi.Window) error
	theirs  []*os.File
}

func attach(cmd *exec.Cmd, shell guestapi.Shell) (*streams, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if shell.Terminal {
		return attachTerminal(cmd, shell.Window)
	}
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), in.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stdout
	return &streams{in: in, out: out, theirs: []*os.File{stdin, stdout}}, nil
}

func attachTerminal(cmd *exec.Cmd, window guestapi.Window) (*streams, error) {
	master, name, err := console.NewPty()
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	// A descriptor that Go's poller knows: a read ends when the file is closed.
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, master.Close()); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	end := os.NewFile(uintptr(fd), "terminal")
	s := &streams{in: end, out: end, resize: func(w guestapi.Window) error {
		raw, err := end.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: w.Rows, Col: w.Columns})
		}), err)
	}}
	theirs, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		s.theirs = []*os.File{theirs}
		err = s.resize(window)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr.Setctty = true
	return s, nil
}

func (s *streams) closeTheirs() {
	for _, f := range s.theirs {
		_ = f.Close()
	}
	s.theirs = nil
}

func (s *streams) close() {
	s.closeTheirs()
	_, _ = s.in.Close(), s.out.Close()
}

// input passes on what the host sends, and kills the shell when it hangs up.
func (s *streams) input(stream io.Reader, pid int) {
	for {
		frame, err := guestapi.ReadFrame(stream, guestapi.FrameInput, guestapi.FrameWindow)
		switch {
		case err != nil:
			_ = unix.Kill(-pid, unix.SIGKILL)
			return
		case frame.Kind == guestapi.FrameWindow:
			var w guestapi.Window
			if s.resize != nil && json.Unmarshal(frame.Data, &w) == nil {
				_ = s.resize(w)
			}
		case len(frame.Data) == 0 && s.resize != nil:
			_, _ = s.in.Write([]byte{4}) // a terminal's end of input, ^D
		case len(frame.Data) == 0:
			_ = s.in.Close()
		default:
			_, _ = s.in.Write(frame.Data) // a shell that reads no more will end
		}
	}
}

// onlyReader hides a file's WriteTo, which has a buffer of its own size.
type onlyReader struct{ io.Reader }
