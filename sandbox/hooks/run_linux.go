// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"cloister/oci"
	"cloister/sys"
)

// drain bounds the wait for output after a hook's end: a daemon that it left
// behind may hold its standard error for ever.
const drain = 500 * time.Millisecond

// Namespaces are those of the runtime, in which hooks run. Nil: the caller's. The files stay the
// caller's.
type Namespaces struct {
	Mount   *os.File
	Network *os.File
}

// Run runs hooks one after the other and stops at the first that fails: for
// prestart and createRuntime. Each gets state on its standard input, exactly its
// own arguments and environment, and the bundle as working folder. A hook that
// takes longer than its timeout is killed with its process group and is
// context.DeadlineExceeded; so it is when ctx ends, with its error.
func Run(ctx context.Context, list []oci.Hook, state State, ns Namespaces) error {
	input, err := state.json()
	if err != nil {
		return err
	}
	for _, h := range list {
		if err := runOne(ctx, h, input, state.Bundle, ns); err != nil {
			return err
		}
	}
	return nil
}

// RunAll is Run without the stop: for poststart and poststop, whose errors the
// caller logs. It returns all of them.
func RunAll(ctx context.Context, list []oci.Hook, state State, ns Namespaces) error {
	var errs []error
	for i := range list {
		errs = append(errs, Run(ctx, list[i:i+1], state, ns))
	}
	return errors.Join(errs...)
}

// runOne runs one hook. The error has the hook's path, why it ended, and the end of its output.
func runOne(ctx context.Context, h oci.Hook, input []byte, bundle string, ns Namespaces) error {
	if h.TimeoutSeconds > 0 {
		limit := time.Duration(h.TimeoutSeconds) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit,
			fmt.Errorf("did not end within its timeout of %s: %w", limit, context.DeadlineExceeded))
		defer cancel()
	}
	out := &tail{}
	cmd := command(ctx, h, input, bundle, out)
	err := execute(cmd, ns)
	// A daemon that the hook has left behind holds the output open; the hook itself has succeeded.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = errors.Join(cause, err)
	}
	if text := out.String(); text != "" {
		return fmt.Errorf("hook %q: %w: %s", h.Path, err, text)
	}
	return fmt.Errorf("hook %q: %w", h.Path, err)
}

// command is a hook's process before its start. The bundle may be gone by poststop; a working
// folder that is not there would fail the hook.
func command(ctx context.Context, h oci.Hook, input []byte, bundle string, out *tail) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // never nil: that would be the shim's own
	if fi, err := os.Stat(bundle); err == nil && fi.IsDir() {
		cmd.Dir = bundle
	}
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that a timeout kills what the hook has started as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = drain
	return cmd
}

// execute starts the command in the namespaces and waits for it. The thread that enters the
// namespaces is never used again.
func execute(cmd *exec.Cmd, ns Namespaces) error {
	if ns.Mount == nil && ns.Network == nil {
		return wait(cmd, cmd.Start())
	}
	return sys.Namespaces{Mount: ns.Mount, Network: ns.Network}.Do(func() error { return wait(cmd, cmd.Start()) })
}

// wait waits for a command that was started without an error. A hook that does
// not read its state has not failed.
func wait(cmd *exec.Cmd, err error) error {
	if err != nil {
		return err
	}
	err = cmd.Wait()
	if errors.Is(err, syscall.EPIPE) && cmd.ProcessState.Success() {
		return nil
	}
	return err
}
