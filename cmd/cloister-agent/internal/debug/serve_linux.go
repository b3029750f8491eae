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

// maxProgram bounds what is taken into the guest's memory. A static busybox has 2 MiB; the bound
// keeps a wrong path in the host's config from filling a small guest.
const maxProgram = 32 << 20

// Serve runs what the host asks for on a DebugStream, and ends it when the host hangs up. It closes
// the stream. A client of the host gets either a status or an error, as the last frame. Writing it
// may fail: then nobody is there to read it.
func Serve(ctx context.Context, monitor *reap.Monitor, stream io.ReadWriteCloser) {
	defer stream.Close()
	status, err := serve(ctx, monitor, stream)
	if err != nil {
		// The error's text holds names that may come from the guest's files; Text replaces control
		// characters and bounds it.
		_ = guestapi.WriteFrame(stream, guestapi.FrameError, []byte(guestapi.Text(err.Error(), guestapi.MaxFrame)))
		return
	}
	_ = guestapi.WriteFrame(stream, guestapi.FrameExit, []byte{byte(status)})
}

// serve gives the exit status of what ran, or why it did not run.
func serve(ctx context.Context, monitor *reap.Monitor, stream io.ReadWriteCloser) (int, error) {
	frame, err := guestapi.ReadFrame(stream, guestapi.FrameShell)
	if err != nil {
		return 0, err
	}
	var shell guestapi.Shell
	if err := json.Unmarshal(frame.Data, &shell); err != nil || len(shell.Args) == 0 {
		return 0, fmt.Errorf("read the command to run: %w", errors.Join(err, guestapi.ErrProtocol))
	}
	program, err := receive(stream)
	if err != nil {
		return 0, err
	}
	defer program.Close()
	// The pid's path and not "self": what runs is another process.
	cmd := exec.CommandContext(ctx, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program.Fd()))
	cmd.Args, cmd.Dir = shell.Args, "/"
	// The agent's own environment is the kernel's; it holds nothing that a shell needs.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=" + shell.Term}
	files, err := attach(cmd, shell)
	if err != nil {
		return 0, err
	}
	defer files.close()
	// Start and not cmd.Start: the reaper of process 1 would collect the child, and its status
	// would be lost.
	ended, err := monitor.Start(cmd)
	// The shell has its ends now. While the agent holds a copy of them, the end of output never
	// comes.
	files.closeTheirs()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", shell.Args[0], err)
	}
	go files.input(stream, cmd.Process.Pid) // ends with the stream, which Serve closes
	delivered := make(chan struct{})
	// Runs until the last holder of the output has closed it; what the shell leaves behind is
	// killed below, so that this ends.
	go func() {
		defer close(delivered)
		_, _ = io.Copy(guestapi.Frames{Kind: guestapi.FrameOutput, To: stream}, files.out)
	}()
	status, err := monitor.Wait(cmd, ended)
	// A background process would keep the terminal open and this call waiting. The minus sign is
	// for the process group, which Setsid has made.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it has left in its session
	<-delivered
	return status, err
}

// receive takes the program into memory. An empty frame ends it. The size is counted before the
// bytes are kept, so a host that sends too much fails and the guest's memory stays.
func receive(stream io.Reader) (*os.File, error) {
	// Memory and not a file: the image has no folder for it, and it is gone with the last
	// descriptor, also after a crash.
	fd, err := unix.MemfdCreate("shell", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory for the program: %w", err)
	}
	program := os.NewFile(uintptr(fd), "shell")
	for size := 0; ; {
		frame, err := guestapi.ReadFrame(stream, guestapi.FrameProgram)
		if err == nil && len(frame.Data) == 0 {
			// Only a file that nobody can write can be executed. execve gives ETXTBSY while the
			// file is open for writing.
			readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
			return readable, errors.Join(err, program.Close())
		}
		if size += len(frame.Data); size > maxProgram {
			err = fmt.Errorf("program is larger than %d bytes: %w", maxProgram, guestapi.ErrProtocol)
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

// attach gives the command its streams: a terminal or two pipes. Standard error goes with standard
// output, since frames have no third stream. The session of its own makes it one process group,
// which is killed as a whole.
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

// attachTerminal makes a pseudoterminal with the window that the client has now, so that the first
// prompt is already right.
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
	// Go's File.Fd would take the descriptor out of the poller again, so the ioctl goes through
	// Control.
	s := &streams{in: end, out: end, resize: func(w guestapi.Window) error {
		raw, err := end.SyscallConn()
		if err != nil {
			return err
		}
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: w.Rows, Col: w.Columns})
		}), err)
	}}
	// NOCTTY: opened by process 1 without it, the terminal would become the agent's own.
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

// closeTheirs is called twice on the way of success; the list is emptied so that the second call
// closes nothing that was reused.
func (s *streams) closeTheirs() {
	for _, f := range s.theirs {
		_ = f.Close()
	}
	s.theirs = nil
}

// close is for every way out; a double close of one file where there is a terminal gives an error
// that means nothing.
func (s *streams) close() {
	s.closeTheirs()
	_, _ = s.in.Close(), s.out.Close()
}

// input passes on what the host sends, and kills the shell when it hangs up. Its end is the end of
// the stream, which Serve closes, so no goroutine outlives a session.
func (s *streams) input(stream io.Reader, pid int) {
	for {
		frame, err := guestapi.ReadFrame(stream, guestapi.FrameInput, guestapi.FrameWindow)
		switch {
		case err != nil:
			// The client has gone or broke the protocol: a shell without a terminal might never
			// notice.
			_ = unix.Kill(-pid, unix.SIGKILL)
			return
		case frame.Kind == guestapi.FrameWindow:
			var w guestapi.Window
			if s.resize != nil && json.Unmarshal(frame.Data, &w) == nil {
				_ = s.resize(w)
			}
		case len(frame.Data) == 0 && s.resize != nil:
			// A terminal's master cannot be half closed. The line discipline turns this byte into
			// an end of file.
			_, _ = s.in.Write([]byte{4}) // a terminal's end of input, ^D
		case len(frame.Data) == 0:
			_ = s.in.Close()
		default:
			_, _ = s.in.Write(frame.Data) // a shell that reads no more will end
		}
	}
}
