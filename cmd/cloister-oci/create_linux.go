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

// processFlags are common to create, run and exec. The names and defaults are runc's, since engines
// call both alike.
type processFlags struct {
	pidFile, console string
	preserve         int
}

// register adds the flags to a verb.
func (f *processFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.pidFile, "pid-file", "", "`file` to write the pid of the container's process to")
	c.Flags().StringVar(&f.console, "console-socket", "", "unix `socket` that gets the master of the terminal")
	c.Flags().IntVar(&f.preserve, "preserve-fds", 0, "further descriptors for the container; a guest takes none")
}

// check refuses what cannot be honoured. The error names a remedy, where a container would
// otherwise wait for a descriptor that never comes.
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

// register adds the flags to a verb. The last two change how runc works on the host and mean
// nothing here; engines send them unasked.
func (f *createFlags) register(c *cobra.Command) {
	f.processFlags.register(c)
	c.Flags().StringVarP(&f.bundle, "bundle", "b", ".", "`folder` with config.json")
	c.Flags().Bool("no-pivot", false, "accepted for engines; it is the guest's")
	c.Flags().Bool("no-new-keyring", false, "accepted for engines; it is the guest's")
}

// newCreate is the verb create. It returns when the container exists, its pid is in the pid file,
// and its proxy waits; the container's process runs from start on.
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
				// The engine saw an error and will not delete. WithoutCancel: the cleanup must go
				// on when the engine has given up waiting.
				return errors.Join(err, o.deleteContainer(context.WithoutCancel(c.Context()), args[0], true))
			}
			return nil
		},
	}
	f.register(c)
	return c
}

// create makes a container. On an error nothing of it is left. detached says that this program
// does not stay. The order is what a crash leaves recoverable: folder, record and bundle, daemon,
// root, proxy, record with the proxy's pid. At any point delete --force of the id takes back what
// is there. The caller goes on with keep or drop of the child.
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
	// Before anything is made: an engine that offers no socket would wait for a terminal that
	// nobody has.
	if err := checkTerminal(b.terminal(), f.console, detached); err != nil {
		return nil, nil, err
	}
	r := &record{
		ID: id, Bundle: folder, Created: time.Now(), Annotations: b.annotations(), Terminal: b.terminal(),
		Daemon: daemonName(os.Args[0]),
	}
	// A delete of the id waits at the lock until this call has ended; a second create is refused at
	// once.
	d, unlock, err := o.reserve(id)
	if err != nil {
		return nil, nil, err
	}
	reached("create: folder made")
	// machineOf reads the records of this root: a pid of another engine's root is not known here,
	// and the shim refuses it with the reason.
	b.move(folder, o.machineOf)
	// The record keeps the engine's path; the daemon gets a folder of its own, onto which bring
	// moves a copy of the mount.
	if root := b.object("root"); root != nil {
		r.Rootfs, root["path"] = root.text("path"), d.rootfs()
	}
	defer unlock()
	// What undo has to take back grows with the steps; it is one value so that the defer above does
	// not have to know how far they came.
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
	// The shim's start returns at once with the address of a daemon that serves this sandbox
	// already, for a second container of a pod.
	socket, err := o.startDaemon(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	// From here on the shim has effects on the host, which only it can undo.
	undo = func() { err = errors.Join(err, o.remove(context.WithoutCancel(ctx), d)) }
	reached("create: daemon started")
	if err := o.join(ctx, d, r, socket); err != nil {
		return nil, nil, err
	}
	reached("create: root shown")
	terminal, screen, err := openTerminal(r.Terminal, f.console)
	if err != nil {
		return nil, nil, err
	}
	// The proxy has the daemon create the container, and not this program: the daemon opens the
	// streams through /proc of the process that stays.
	c, err := spawn(order{Socket: socket, ID: id, Bundle: d.bundle(), Root: r.Rootfs, Terminal: r.Terminal, Config: o.config}, terminal)
	if err != nil {
		return nil, nil, err
	}
	// In the record before the pid file: an engine that has the pid may ask for the state at once.
	r.Proxy, r.Machine = c.process, c.machine
	reached("create: proxy answered")
	if err := errors.Join(d.save(r), writePID(f.pidFile, c.PID)); err != nil {
		// Nobody knows the pid then, so the proxy must not stay. undo runs after it, when the proxy
		// has taken the container back.
		c.drop()
		return nil, nil, err
	}
	return c, screen, nil
}

// join shows a daemon, which may serve other containers already, the root of a new one.
func (o *options) join(ctx context.Context, d dir, r *record, socket string) error {
	if err := o.sameDaemon(r, socket); err != nil {
		return err
	}
	// Without a root there is nothing to show; the shim says what is missing.
	if r.Rootfs == "" {
		return nil
	}
	return d.bring(ctx, socket, r.Rootfs)
}

// checkRoot refuses an engine without the host's root: a root of its own user namespace, as that of
// a rootless engine, has none of its rights. A sandbox's jail, cgroups and network need rights that
// a user namespace does not have over the host. Without this check the first error would be one
// from deep inside.
func checkRoot() error {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	const all = "0 0 4294967295" // of the first user namespace, user_namespaces(7)
	if mapped := strings.Join(strings.Fields(string(data)), " "); mapped != all {
		return fmt.Errorf("rootless engine (user namespace %s): the jail, the cgroup and the network of a sandbox need the host's root: "+
			"run the engine as root, or run this container with runc or crun", mapped)
	}
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("user %d: the jail, the cgroup and the network of a sandbox need root: run the engine as root", uid)
	}
	return nil
}

// reserve makes the folder of a new container, locked. On an error of the lock the folder stays;
// the next create of that id says that it exists, and delete takes it away.
func (o *options) reserve(id string) (dir, func(), error) {
	d, err := o.container(id)
	if err != nil {
		return "", nil, err
	}
	// 0711: root of a container with a user namespace is another user of the host, and must walk
	// through to its root file system.
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return "", nil, err
	}
	// Mkdir is what reserves the id: two creates cannot both make it. The words are runc's, which
	// engines compare.
	if err := os.Mkdir(string(d), 0o711); errors.Is(err, fs.ErrExist) {
		return "", nil, fmt.Errorf("container with given ID already exists: %q", id)
	} else if err != nil {
		return "", nil, err
	}
	unlock, err := lock(string(d))
	return d, unlock, err
}

// write puts the record and the bundle for the daemon into a new folder. The files are root's
// alone: config.json holds environment variables, and those hold secrets.
func (d dir) write(r *record, b bundle) error {
	if err := os.MkdirAll(d.rootfs(), 0o711); err != nil {
		return err
	}
	data, err := b.encode()
	if err != nil {
		return err
	}
	// The log exists from the start: the daemon appends to it only where it is.
	return errors.Join(os.WriteFile(d.config(), data, 0o600), os.WriteFile(d.log(), nil, 0o600), d.save(r))
}

// machineOf gives the pid of the machine of the container whose proxy has a pid. Engines name a
// container's network by its pid, as /proc/PID/ns/net. That pid is a proxy's, which is in the
// machine's namespace, but the shim looks for the machine.
func (o *options) machineOf(pid int) int {
	all, err := o.all()
	if err != nil {
		return 0 // the shim names the namespace that it refuses
	}
	for _, r := range all {
		// The start time keeps a pid that is used again from being taken for a proxy.
		if r.Proxy.PID == pid && r.Proxy.alive() {
			return r.Machine
		}
	}
	return 0
}

// newStart is the verb start. It answers when the process in the guest runs.
func newStart(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "start ID", Short: "run the process of a created container", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
				_, err := d.Start(ctx, &taskapi.StartRequest{ID: args[0]})
				return err
			})
		},
	}
}

// call runs one call of the daemon of a container. It takes no lock: the daemon orders calls
// itself, and a slow one must not hold up a kill.
func (o *options) call(ctx context.Context, id string, f func(context.Context, *daemon) error) error {
	d, _, err := o.load(id)
	if err != nil {
		return err
	}
	conn, err := d.connect(ctx)
	// The guest has ended with its daemon; engines compare "stopped" with what state says.
	if errors.Is(err, errNoDaemon) {
		return fmt.Errorf("container %s is stopped: %w", id, err)
	}
	if err != nil {
		return err
	}
	defer conn.close()
	reached("call: connected")
	err = f(ctx, conn)
	reached("call: answered")
	return plain(err)
}
