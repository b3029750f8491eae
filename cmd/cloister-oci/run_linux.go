// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/console"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// newRun is the verb run, which BuildKit and people use.
func newRun(o *options) *cobra.Command {
	f := &createFlags{}
	var detach, keep bool
	c := &cobra.Command{
		Use: "run [flags] ID", Short: "create and start a container, and end with its status", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], f, detach, keep) },
	}
	f.register(c)
	c.Flags().BoolVarP(&detach, "detach", "d", false, "end when the container runs")
	c.Flags().BoolVar(&keep, "keep", false, "leave the container when it has ended")
	c.Flags().Bool("no-subreaper", false, "accepted for engines")
	return c
}

// run is create, start and wait in one. Whatever fails after create, the container is deleted:
// nobody else knows that it is there.
func (o *options) run(ctx context.Context, id string, f *createFlags, detach, keep bool) error {
	c, screen, err := o.create(ctx, id, f, detach)
	if err != nil {
		return err
	}
	defer screen.restore()
	// Before start: a process may end at once, and its proxy must be in its place to tell the
	// status.
	if err = c.keep(); err == nil {
		err = o.call(ctx, id, func(ctx context.Context, d *daemon) error {
			_, err := d.Start(ctx, &taskapi.StartRequest{ID: id})
			return err
		})
	}
	if err != nil {
		return errors.Join(err, o.deleteContainer(context.WithoutCancel(ctx), id, true))
	}
	if detach {
		return nil
	}
	status := c.wait()
	// The delete comes before drain: it has the guest deliver what is still in its pipes.
	if !keep {
		err = o.deleteContainer(context.WithoutCancel(ctx), id, true) // delivers the rest of the output
	}
	screen.drain()
	if err != nil {
		return err
	}
	return status
}

// screen connects this program's own terminal with a container's. A nil one does nothing. It is one
// session; its goroutines end with this program.
type screen struct {
	master console.Console
	own    console.Console // nil when stdin is no terminal
	output chan struct{}   // closed when all output has been written
}

// openTerminal gives the container's end of a pty, nil when none is wanted. The other end is the
// engine's or, without a socket, this program's. The caller gives the file to spawn, which closes
// it, and calls restore of the screen.
func openTerminal(wanted bool, socket string) (*os.File, *screen, error) {
	switch {
	case !wanted:
		return nil, nil, nil
	case socket != "":
		terminal, err := terminalFor(socket)
		return terminal, nil, err
	}
	master, terminal, err := newTerminal()
	if err != nil {
		return nil, nil, err
	}
	s := &screen{master: master, output: make(chan struct{})}
	// Raw: the keys, ^C among them, are for the terminal in the guest, which has a line discipline
	// of its own.
	if own, err := console.ConsoleFromFile(os.Stdin); err == nil {
		s.own = own
		_, err := term.MakeRaw(int(own.Fd()))
		if err = errors.Join(err, master.ResizeFrom(own)); err != nil {
			return nil, nil, errors.Join(err, own.Reset(), terminal.Close(), master.Close())
		}
		sizes := make(chan os.Signal, 1)
		signal.Notify(sizes, unix.SIGWINCH)
		go func() {
			for range sizes {
				_ = master.ResizeFrom(own) // the next change may succeed
			}
		}()
	}
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with this program
	go func() {
		defer close(s.output)
		_, _ = io.Copy(os.Stdout, master) // EIO when the container's end is closed
	}()
	return terminal, s, nil
}

// drain waits until all output has been written. The proxy has ended.
func (s *screen) drain() {
	if s != nil {
		<-s.output
	}
}

// restore gives the terminal its own mode back. It runs also on errors: a shell after a raw
// terminal shows nothing that is typed.
func (s *screen) restore() {
	if s != nil && s.own != nil {
		_ = s.own.Reset() // nobody is left to tell
	}
}
