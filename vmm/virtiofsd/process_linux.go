// SPDX-License-Identifier: Apache-2.0

package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/vmm/internal/child"
)

const (
	// askTimeout bounds a --help.
	askTimeout = 10 * time.Second
	// killTimeout bounds the end of a killed server.
	killTimeout = 5 * time.Second
	// maxLogBytes bounds the server's messages, some of which a guest can provoke.
	maxLogBytes = 1 << 20
	// maxOpenFiles is where virtiofsd itself stops asking for more.
	maxOpenFiles = 1000000
)

// Starter starts a command, under whatever label it stands for.
type Starter interface {
	Start(cmd *exec.Cmd) error
}

// Config is what a file server needs. Files stay the caller's.
type Config struct {
	// Binary is the server's, looked up in PATH; empty looks for both kinds
	// where distributions keep them.
	Binary string
	// Kind saves asking the binary.
	Kind Kind
	// Source is the folder to serve, of the mount that the server is to see; O_PATH is enough.
	// Later mounts in it are served too.
	Source *os.File
	// Starter starts the server; nil is refused.
	Starter Starter
	// Sockets runs open where new sockets get the label QEMU may use; nil runs
	// it here.
	Sockets func(open func() error) error
	// Dir is a folder that nobody else can write to, for a moment's use.
	Dir string
	// Log gets the server's messages, up to 1 MiB: a regular file that only this
	// process writes to and that starts over when it is full. nil keeps but the
	// tail, in memory.
	Log *os.File
	// OpenFiles bounds the descriptors of the server, which holds one for each
	// inode the guest knows; 0 means as many as the host allows.
	OpenFiles uint64
}

// Process is a server that has been started. It ends by itself once QEMU hangs up, or, before QEMU
// has the socket, this process does. Its methods may be called at once and after its end.
type Process struct {
	cmd    *exec.Cmd
	socket *os.File
	log    *child.Recorder
	most   uint64 // open files
	// stopping is set once the end is our wish.
	stopping atomic.Bool
	// done is closed when the server has been waited for; err is set before.
	done chan struct{}
	err  error
}

// Start starts a server for one machine. ctx bounds Start alone. Nothing of the guest reaches the
// server before QEMU runs the guest, so its label and jail can be read back in between. On an error
// no process is left.
func Start(ctx context.Context, c Config) (*Process, error) {
	switch {
	case c.Starter == nil:
		return nil, fmt.Errorf("start virtiofsd: no Starter: name the one that labels it, or the one that labels nothing: %w",
			errdefs.ErrInvalidArgument)
	case c.Dir == "":
		return nil, fmt.Errorf("start virtiofsd: no Dir: name the sandbox's own folder: %w", errdefs.ErrInvalidArgument)
	case c.Source == nil:
		return nil, fmt.Errorf("start virtiofsd: no Source: open the folder to serve: %w", errdefs.ErrInvalidArgument)
	}
	binary, err := find(c.Binary)
	if err != nil {
		return nil, err
	}
	if c.Kind == KindUnknown {
		if c.Kind, err = ask(ctx, binary); err != nil {
			return nil, fmt.Errorf("%s %w", binary, err)
		}
	}
	if c.Sockets == nil {
		c.Sockets = func(mk func() error) error { return mk() }
	}
	var w wires
	if err := c.Sockets(func() error { return w.open(c.Dir) }); err != nil {
		return nil, fmt.Errorf("connect virtiofsd: %w", err)
	}
	defer w.closeServer()
	log, err := child.Record(w.log, c.Log, maxLogBytes)
	if err != nil {
		w.closeClient()
		return nil, err
	}

	// The server outlives the call that starts it.
	most := openFiles(c.OpenFiles)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), binary, args(c.Kind, 3, 4, most)...)
	cmd.ExtraFiles = []*os.File{w.server.socket, c.Source}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = w.server.log, w.server.log
	if err = child.InheritNothing(); err == nil {
		if err = c.Starter.Start(cmd); err != nil {
			err = fmt.Errorf("start %s: %w", binary, err)
		}
	}
	if err != nil {
		w.closeClient()
		w.closeServer()
		log.Wait()
		return nil, err
	}
	p := &Process{cmd: cmd, socket: w.socket, log: log, most: most, done: make(chan struct{})}
	limitErr := child.NoCore(p.Pid())
	go p.wait()
	if limitErr != nil {
		return nil, errors.Join(limitErr, p.Stop())
	}
	return p, nil
}

// Places are where a server is looked for, in this order: PATH, for one that an administrator has
// put there, then where distributions keep the Rust server, and last where QEMU's C server is. A
// host that has both uses the Rust one.
func Places() []string {
	return []string{"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}
}

// find returns the server's path. Distributions keep it outside of PATH, each elsewhere.
func find(binary string) (string, error) {
	candidates := []string{binary}
	if binary == "" {
		candidates = Places()
	}
	for _, c := range candidates {
		if path, err := exec.LookPath(c); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find virtiofsd in %q: %w: install it, or set its path in the config", candidates, errdefs.ErrNotFound)
}

// Find gives the server that a Config with that Binary starts, and its kind. ctx bounds the
// question.
func Find(ctx context.Context, binary string) (path string, kind Kind, err error) {
	if path, err = find(binary); err != nil {
		return "", KindUnknown, err
	}
	kind, err = ask(ctx, path)
	return path, kind, err
}

// ask has the binary say what it is.
func ask(ctx context.Context, binary string) (Kind, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	help, err := exec.CommandContext(ctx, binary, "--help").CombinedOutput()
	kind, kindErr := kindOf(string(help))
	if kindErr != nil {
		return kind, errors.Join(kindErr, err)
	}
	return kind, nil
}

// openFiles returns want, at most what the host allows without privilege.
func openFiles(want uint64) uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return want
	}
	if want == 0 {
		want = maxOpenFiles
	}
	return min(want, limit.Max)
}

// Pid is the server's process id, not reused before Done.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// OpenFiles is how many inodes and open files of the folder the guest may hold.
func (p *Process) OpenFiles() uint64 { return p.most }

// Socket is the connection for QEMU. Whoever gave it to QEMU calls HandedOver.
func (p *Process) Socket() *os.File { return p.socket }

// HandedOver gives up this process's hold on Socket, so that QEMU's end is the
// server's.
func (p *Process) HandedOver() { _ = p.socket.Close() }

// Done is closed when the server has ended and has been waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says, after Done, why the server ended: nil after Stop and when QEMU hung
// up, else an error with its last words. Before Done it is nil.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop kills the server, which keeps nothing that could be lost, and returns once it is gone. The
// error is one that does not die, as a process that waits for a disk or a network file system.
func (p *Process) Stop() error {
	p.stopping.Store(true)
	_ = p.socket.Close()
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("virtiofsd %d is still there %v after SIGKILL", p.Pid(), killTimeout)
	}
}

// wait collects the server. Its log ends before its error is made, so that the last words are in
// it.
func (p *Process) wait() {
	err := p.cmd.Wait()
	p.log.Wait()
	if err != nil && !p.stopping.Load() {
		p.err = fmt.Errorf("virtiofsd: %w: %w: %s", err, errdefs.ErrUnavailable, p.log.LastLines())
	}
	close(p.done)
}
