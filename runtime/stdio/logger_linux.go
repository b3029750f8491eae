// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// How long a logger gets to be ready, to end after it has seen the end of its input, and to end
// after SIGTERM. The first is within a Create, which fails then; the others are within a Delete.
const (
	loggerReadyTimeout = 30 * time.Second
	loggerEndTimeout   = 5 * time.Second
	loggerTermTimeout  = 5 * time.Second
)

// logger is a logging binary: descriptors 3 and 4 are stdout and stderr of the container, 5 is
// where it says that it is ready. This is containerd's contract for binary:// addresses. The binary
// is the host's and is started as root, by whoever may create containers.
type logger struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File // our ends
	exited         chan struct{}
}

// startLogger starts the binary of t and waits until it is ready. Its environment has the two
// variables of the contract and nothing of the shim's. It lives as long as the container, not as
// long as the call.
func startLogger(ctx context.Context, t target, id, namespace string) (_ *logger, err error) {
	files, err := openPipes(3)
	if err != nil {
		return nil, err
	}
	defer func() { closeAll(files) }()
	stdout, stderr, ready := files[0], files[2], files[4]

	cmd := exec.CommandContext(context.WithoutCancel(ctx), t.path, t.args...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	// os/exec gives the first of them number 3.
	cmd.ExtraFiles = []*os.File{stdout, stderr, files[5]}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("logging binary: %w", err)
	}
	l := &logger{cmd: cmd, stdout: files[1], stderr: files[3], exited: make(chan struct{})}
	go l.wait()
	_ = files[5].Close() // else ready never ends
	if err := waitReady(ctx, ready, t.kind == kindBinaryV2); err != nil {
		l.kill()
		return nil, fmt.Errorf("logging binary %q: %w", t.path, err)
	}
	// Ours from now on: the rest is closed above.
	files[1], files[3] = nil, nil
	return l, nil
}

// waitReady reads a byte. The first contract took the end of the pipe for an answer as well, so
// that a logger that crashed was ready; strict does not. It ends with ctx, when the client has
// gone.
func waitReady(ctx context.Context, ready *os.File, strict bool) error {
	deadline := time.Now().Add(loggerReadyTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	_, err := ready.Read(make([]byte, 1))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		if strict {
			return errors.New("ended before it was ready")
		}
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("was not ready within %s: %w", loggerReadyTimeout, errors.Join(err, ctx.Err()))
	}
	return err
}

// wait reaps the logger, so that it leaves no zombie.
func (l *logger) wait() {
	_ = l.cmd.Wait() // how a logger ends is its own affair
	close(l.exited)
}

// Close ends the logger's input and waits, bounded, until it has ended. One that does not end by
// itself is told to, then killed: it would otherwise outlive its container. It may have to write
// much, so it is not killed at once.
func (l *logger) Close() error {
	err := errors.Join(closeOnce(l.stdout), closeOnce(l.stderr))
	if l.exitedWithin(loggerEndTimeout) {
		return err
	}
	_ = l.cmd.Process.Signal(unix.SIGTERM)
	if l.exitedWithin(loggerTermTimeout) {
		return err
	}
	l.kill()
	return errors.Join(err, fmt.Errorf("logging binary %q did not end: killed", l.cmd.Path))
}

// exitedWithin waits for the end, at most for d.
func (l *logger) exitedWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.exited:
		return true
	case <-t.C:
		return false
	}
}

// kill ends the logger for sure, and waits for it.
func (l *logger) kill() {
	_ = l.cmd.Process.Kill()
	<-l.exited
}

// openPipes returns n pipes as reader, writer, reader, writer and so on; on an error none is open.
func openPipes(n int) ([]*os.File, error) {
	var files []*os.File
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, r, w)
	}
	return files, nil
}

// closeAll closes those that were not taken over.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
