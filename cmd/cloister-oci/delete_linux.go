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
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// proxyLimit bounds how long delete waits for a proxy whose process has ended.
const proxyLimit = outputLimit + 5*time.Second

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

func (o *options) deleteContainer(ctx context.Context, id string, force bool) error {
	d, unlock, err := o.open(id)
	if err != nil {
		return err
	}
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

// remove takes away everything of a container, whatever state it is in.
func (o *options) remove(ctx context.Context, d dir) error {
	conn, err := d.connect(ctx)
	switch {
	case errors.Is(err, errNoDaemon):
		err = o.removeRest(ctx, d)
	case err == nil:
		err = d.removeTask(ctx, conn)
		conn.close()
	}
	if err != nil {
		return err
	}
	reached("delete: daemon dismissed")
	return os.RemoveAll(string(d))
}

// removeTask has the daemon delete the container, and leave if it was the last one.
func (d dir) removeTask(ctx context.Context, conn *daemon) error {
	id := d.id()
	_, err := conn.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	if err == nil {
		_, err = conn.Wait(ctx, &taskapi.WaitRequest{ID: id})
	}
	if err != nil && !notFound(err) {
		return plain(err)
	}
	reached("delete: process ended")
	if r, err := d.load(); err == nil {
		awaitEnd(r.Proxy, proxyLimit)
	}
	if _, err := conn.Delete(ctx, &taskapi.DeleteRequest{ID: id}); err != nil && !notFound(err) {
		return plain(err)
	}
	reached("delete: task deleted")
	if _, err := conn.Shutdown(ctx, &taskapi.ShutdownRequest{ID: id}); err != nil {
		return plain(err)
	}
	return nil
}

// removeRest cleans up after a daemon that is gone, with all that it served.
func (o *options) removeRest(ctx context.Context, d dir) error {
	r, err := d.load()
	if err == nil {
		awaitEnd(r.Proxy, proxyLimit) // it has seen the end of the daemon
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(d.bundle()); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was started
	}
	_, err = o.shim(ctx, d, "delete")
	return err
}

// awaitEnd waits for the end of a process, so that its engine has the exit status before the
// sandbox is taken down.
func awaitEnd(p process, most time.Duration) {
	if !p.alive() {
		return
	}
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

func (o *options) kill(ctx context.Context, id string, number unix.Signal, all bool) error {
	err := o.call(ctx, id, func(ctx context.Context, d *daemon) error {
		_, err := d.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(number), All: all})
		return err
	})
	switch gone := notFound(err) || errors.Is(err, errNoDaemon); {
	case gone && all:
		return nil // no process is left that could get it
	case gone:
		return fmt.Errorf("container not running: %w", err) // engines look for these words
	}
	return err
}

// parseSignal reads a number, KILL or SIGKILL.
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
