// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// proxyLimit bounds how long delete waits for a proxy whose process has ended. A proxy may wait
// outputLimit for a reader itself; five seconds more are for a busy host.
const proxyLimit = outputLimit + 5*time.Second

// newDelete is the verb delete. With --force, a container that does not exist is no error: engines
// call it again after a timeout.
func newDelete(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete [--force] ID", Short: "take a stopped container away, and its guest with the last one", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			err := o.deleteContainer(c.Context(), args[0], force)
			if force && errors.Is(err, errNotExist) {
				return nil
			}
			return err
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "kill the container first if it runs; one that does not exist is no error")
	return c
}

// deleteContainer takes a container away. Without force it must be stopped, or created and never
// started, as with runc.
func (o *options) deleteContainer(ctx context.Context, id string, force bool) error {
	d, unlock, err := o.open(id)
	if err != nil {
		return err
	}
	// The lock is the folder's own, so it ends with the folder.
	defer unlock()
	if !force {
		switch status, err := d.status(ctx); {
		case err != nil:
			return err
		case status != statusStopped && status != statusCreated:
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, status)
		}
	}
	return o.remove(ctx, d)
}

// remove takes away everything of a container, whatever state it is in. It is idempotent: whatever
// a crash left is found missing, or is taken away now. The folder goes last, since it holds what a
// second attempt needs.
func (o *options) remove(ctx context.Context, d dir) error {
	conn, err := d.connect(ctx)
	switch {
	case errors.Is(err, errNoDaemon):
		// The guest is dead, and nobody can ask it anything; what the shim has recorded is undone
		// by a new shim process.
		err = o.removeRest(ctx, d)
	case err == nil:
		err = d.removeTask(ctx, conn)
		conn.close()
	}
	// The folder stays: the engine can call delete again.
	if err != nil {
		return err
	}
	reached("delete: daemon dismissed")
	return os.RemoveAll(string(d))
}

// removeTask has the daemon delete the container, and leave if it was the last one.
func (d dir) removeTask(ctx context.Context, conn *daemon) error {
	id := d.id()
	// Also for a container that has stopped: processes other than the first may be left.
	_, err := conn.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	// Unavailable: the guest has gone during the call, as with the delete of another client. Its
	// processes end with it.
	if err == nil || hasCode(err, codes.Unavailable) {
		_, err = conn.Wait(ctx, &taskapi.WaitRequest{ID: id})
	}
	// NotFound: the process, or the container, has gone between two calls.
	if err != nil && !notFound(err) {
		return plain(err)
	}
	reached("delete: process ended")
	// While the proxy copies output, its cgroup cannot be removed and its engine has no status yet.
	if r, err := d.load(); err == nil {
		awaitEnd(r.Proxy, proxyLimit)
	}
	if _, err := conn.Delete(ctx, &taskapi.DeleteRequest{ID: id}); err != nil && !notFound(err) {
		return plain(err)
	}
	reached("delete: task deleted")
	// The daemon ends only if it serves nobody else, and answers either way. It may have ended by
	// another client's wish as soon as nothing was left.
	if _, err := conn.Shutdown(ctx, &taskapi.ShutdownRequest{ID: id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		return plain(err)
	}
	return nil
}

// removeRest cleans up after a daemon that is gone, with all that it served. The shim's delete
// undoes what the record of the sandbox says, and changes nothing for a sandbox that another daemon
// serves.
func (o *options) removeRest(ctx context.Context, d dir) error {
	r, err := d.load()
	if err == nil {
		awaitEnd(r.Proxy, proxyLimit) // it has seen the end of the daemon
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A create that was killed before it wrote the bundle has started nothing.
	if _, err := os.Stat(d.bundle()); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was started
	}
	_, err = o.shim(ctx, d, "delete")
	return err
}

// awaitEnd waits for the end of a process, so that its engine has the exit status before the
// sandbox is taken down. It ends without an error when the time is over: what follows works all the
// same.
func awaitEnd(p process, most time.Duration) {
	if !p.alive() {
		return
	}
	// A pidfd names this very process, so a pid that is used again cannot hold the wait up.
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(most)
	for p.alive() && time.Now().Before(deadline) {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds())) // EINTR asks again
	}
}

// newKill is the verb kill.
func newKill(o *options) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "kill [--all] ID [SIGNAL]", Short: "send a signal to a container's process (default SIGTERM)", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			name := "SIGTERM"
			if len(args) == 2 {
				name = args[1]
			}
			number, err := parseSignal(name)
			if err != nil {
				return err
			}
			return o.kill(c.Context(), args[0], number, all)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "to all processes of the container")
	return c
}

// kill sends a signal. What has ended is no error with --all, as for runc; without it engines
// expect an error that says so.
func (o *options) kill(ctx context.Context, id string, number unix.Signal, all bool) error {
	err := o.call(ctx, id, func(ctx context.Context, d *daemon) error {
		_, err := d.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(number), All: all})
		return err
	})
	switch gone := notFound(err) || errors.Is(err, errNoDaemon); {
	case gone && all:
		return nil // no process is left that could get it
	case gone:
		// Podman and containerd's shim search for exactly these.
		return fmt.Errorf("container not running: %w", err) // engines look for these words
	}
	return err
}

// parseSignal reads a number, KILL or SIGKILL. 64 is the highest real-time signal. The names are
// the kernel's, in either case.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}
