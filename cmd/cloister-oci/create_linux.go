// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/spf13/cobra"
)

// processFlags are common to create, run and exec.
type processFlags struct {
	pidFile, console string
	preserve         int
}

func (f *processFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.pidFile, "pid-file", "", "`file` to write the pid of the container's process to")
	c.Flags().StringVar(&f.console, "console-socket", "", "unix `socket` that gets the master of the terminal")
	c.Flags().IntVar(&f.preserve, "preserve-fds", 0, "further descriptors for the container; a guest takes none")
}

func (f *processFlags) check() error {
	if f.preserve > 0 {
		return fmt.Errorf("--preserve-fds %d: a descriptor of the host cannot be handed to a guest: leave it out, "+
			"or mount the file or the socket", f.preserve)
	}
	return nil
}

// createFlags are those of create and run.
type createFlags struct {
	processFlags

	bundle string
}

func (f *createFlags) register(c *cobra.Command) {
	f.processFlags.register(c)
	c.Flags().StringVarP(&f.bundle, "bundle", "b", ".", "`folder` with config.json")
	c.Flags().Bool("no-pivot", false, "accepted for engines; it is the guest's")
	c.Flags().Bool("no-new-keyring", false, "accepted for engines; it is the guest's")
}

func newCreate(o *options) *cobra.Command {
	f := &createFlags{}
	c := &cobra.Command{
		Use: "create [flags] ID", Args: cobra.ExactArgs(1),
		Short: "make a container and its guest; start runs its process",
		RunE: func(c *cobra.Command, args []string) error {
			made, _, err := o.create(c.Context(), args[0], f, true)
			if err != nil {
				return err
			}
			reached("create: pid written")
			if err := made.keep(); err != nil {
				return errors.Join(err, o.deleteContainer(context.WithoutCancel(c.Context()), args[0], true))
			}
			return nil
		},
	}
	f.register(c)
	return c
}

// create makes a container. On an error nothing of it is left. detached says that this program
// does not stay.
func (o *options) create(ctx context.Context, id string, f *createFlags, detached bool) (_ *child, _ *screen, err error) {
	if err := errors.Join(f.check(), checkRoot()); err != nil {
		return nil, nil, err
	}
	folder, err := filepath.Abs(f.bundle)
	if err != nil {
		return nil, nil, err
	}
	b, err := readBundle(folder)
	if err != nil {
		return nil, nil, err
	}
	if err := checkTerminal(b.terminal(), f.console, detached); err != nil {
		return nil, nil, err
	}
	r := &record{ID: id, Bundle: folder, Created: time.Now(), Annotations: b.annotations(), Terminal: b.terminal()}
	d, unlock, err := o.reserve(id)
	if err != nil {
		return nil, nil, err
	}
	reached("create: folder made")
	b.move(folder, o.machineOf)
	if root := b.object("root"); root != nil {
		r.Rootfs, root["path"] = root.text("path"), d.rootfs()
	}
	defer unlock()
	undo := func() { err = errors.Join(err, os.RemoveAll(string(d))) }
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if err := d.write(r, b); err != nil {
		return nil, nil, err
	}
	reached("create: bundle written")
	socket, err := o.startDaemon(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	undo = func() { err = errors.Join(err, o.remove(context.WithoutCancel(ctx), d)) }
	reached("create: daemon started")
	if r.Rootfs != "" {
		if err := d.bring(ctx, socket, r.Rootfs); err != nil {
			return nil, nil, err
		}
	}
	reached("create: root shown")
	terminal, screen, err := openTerminal(r.Terminal, f.console)
	if err != nil {
		return nil, nil, err
	}
	c, err := spawn(order{Socket: socket, ID: id, Bundle: d.bundle(), Root: r.Rootfs, Terminal: r.Terminal, Config: o.config}, terminal)
	if err != nil {
		return nil, nil, err
	}
	r.Proxy, r.Machine = c.process, c.machine
	reached("create: proxy answered")
	if err := errors.Join(d.save(r), writePID(f.pidFile, c.PID)); err != nil {
		c.drop()
		return nil, nil, err
	}
	return c, screen, nil
}

// checkRoot refuses an engine without the host's root: a root of its own user namespace, as that of
// a rootless engine, has none of its rights.
func checkRoot() error {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	const all = "0 0 4294967295" // of the first user namespace, user_namespaces(7)
	if mapped := strings.Join(strings.Fields(string(data)), " "); mapped != all {
		return fmt.Errorf("rootless engine (user namespace %s): the jail, the cgroup and the network of a sandbox need the host's root: "+
			"run the engine as root, or this container by runc or crun", mapped)
	}
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("user %d: the jail, the cgroup and the network of a sandbox need root: run the engine as root", uid)
	}
	return nil
}

// reserve makes the folder of a new container, locked.
func (o *options) reserve(id string) (dir, func(), error) {
	d, err := o.container(id)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(string(d), 0o711); errors.Is(err, fs.ErrExist) {
		return "", nil, fmt.Errorf("container with given ID already exists: %q", id)
	} else if err != nil {
		return "", nil, err
	}
	unlock, err := lock(string(d))
	return d, unlock, err
}

// write puts the record and the bundle for the daemon into a new folder.
func (d dir) write(r *record, b bundle) error {
	if err := os.MkdirAll(d.rootfs(), 0o711); err != nil {
		return err
	}
	data, err := b.encode()
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(d.config(), data, 0o600), os.WriteFile(d.log(), nil, 0o600), d.save(r))
}

// machineOf gives the pid of the machine of the container whose proxy has a pid.
func (o *options) machineOf(pid int) int {
	all, err := o.all()
	if err != nil {
		return 0 // the shim names the namespace that it refuses
	}
	for _, r := range all {
		if r.Proxy.PID == pid && r.Proxy.alive() {
			return r.Machine
		}
	}
	return 0
}

func newStart(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "start ID", Short: "run the process of a created container", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
				reached("start: connected")
				_, err := d.Start(ctx, &taskapi.StartRequest{ID: args[0]})
				reached("start: started")
				return err
			})
		},
	}
}

// call runs one call of the daemon of a container.
func (o *options) call(ctx context.Context, id string, f func(context.Context, *daemon) error) error {
	d, _, err := o.load(id)
	if err != nil {
		return err
	}
	conn, err := d.connect(ctx)
	if errors.Is(err, errNoDaemon) {
		return fmt.Errorf("container %s is stopped: %w", id, err)
	}
	if err != nil {
		return err
	}
	defer conn.close()
	return plain(f(ctx, conn))
}
