// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	capability "github.com/containerd/containerd/v2/pkg/cap"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/prove"
	"cloister/sys"
)

// beside is a program of root's on the host, or a container that the OCI runtime runs beside the
// sandbox's.
type beside struct {
	io.Reader
	io.Writer

	cmd   *exec.Cmd
	ended chan runc.Exit
	close func() error
	group *cgroup.Group // the container's; nil: cmd is the process
	undo  func() error
}

// PID is 0 for a container, which is never attacked.
func (p beside) PID() int {
	if p.group != nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p beside) End() error {
	err := p.close()
	if p.group == nil {
		_ = p.cmd.Process.Kill()
	} else {
		// Not by the number of the container's process: the runtime may have waited for it, and
		// another process have the number by now.
		err = errors.Join(err, p.group.Kill())
	}
	status, failed := runc.Monitor.Wait(p.cmd, p.ended)
	if failed == nil {
		failed = fmt.Errorf("exit status %d", status)
	}
	return errors.Join(err, failed, p.undo())
}

// run runs a program with some of the container's layers: as root on the host without any, or in a
// container that has no more of the configuration than these. It is the OCI runtime's alone: what
// Cloister does for a container is in the configuration that its own one had.
func (c *Container) run(ctx context.Context, cmd *exec.Cmd, with []prove.Layer) (_ prove.Process, err error) {
	p := beside{cmd: cmd, undo: func() error { return nil }}
	if len(with) > 0 {
		if err := c.contain(ctx, &p, with); err != nil {
			return nil, err
		}
	}
	// Pipes, which a container may have of the shim. A socket would be the shim's own.
	in, ours, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, p.undo())
	}
	defer in.Close()
	theirs, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, ours.Close(), p.undo())
	}
	defer out.Close()
	p.Reader, p.Writer = theirs, ours
	p.close = func() error { return errors.Join(ours.Close(), theirs.Close()) }
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, out, out
	// Not by os/exec alone: this process collects its children elsewhere.
	if p.ended, err = runc.Monitor.Start(p.cmd); err != nil {
		return nil, errors.Join(err, p.close(), p.undo())
	}
	return p, nil
}

// contain has p run its program in a container with these layers.
func (c *Container) contain(ctx context.Context, p *beside, with []prove.Layer) error {
	c.started++
	name := "alone-" + strconv.Itoa(c.started)
	bundle := c.path(name)
	tree := filepath.Join(bundle, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	runtime := &runc.Runc{Command: c.config.Runtime, Root: filepath.Join(bundle, "runtime")}
	group, err := cgroup.At(c.cgroup() + alone)
	if err != nil {
		return err
	}
	p.group = group
	p.undo = func() error {
		ctx := context.WithoutCancel(ctx)
		var err error
		if _, failed := os.Stat(filepath.Join(runtime.Root, name)); failed == nil {
			err = runtime.Delete(ctx, name, &runc.DeleteOpts{Force: true})
		}
		if failed := unix.Unmount(tree, unix.MNT_DETACH); failed != nil && !errors.Is(failed, unix.EINVAL) { // nothing was mounted
			err = errors.Join(err, failed)
		}
		return errors.Join(err, sys.RemoveTree(bundle))
	}
	argv := p.cmd.Args
	for _, l := range with {
		if l == prove.Root {
			argv = append([]string{"/" + programName}, argv[1:]...)
		}
	}
	config, err := os.ReadFile(filepath.Join(c.dir.String(), "containers", c.id(), "config.json"))
	if err != nil {
		return errors.Join(err, p.undo())
	}
	all, err := capability.Current()
	if err == nil {
		config, err = stripped(config, with, argv, all, mounted{tree, p.cmd.Dir})
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600)
	}
	if err == nil {
		err = hostsTree(tree)
	}
	if err != nil {
		return errors.Join(err, p.undo())
	}
	p.cmd = exec.CommandContext(ctx, c.config.Runtime, "--root", runtime.Root,
		"run", "--bundle", bundle, name)
	return nil
}

// hostsTree shows the host's files at a folder, in this mount namespace. /dev is left out: an OCI
// runtime replaces nodes of it. So is what lies in / itself.
func hostsTree(at string) error {
	if err := unix.Mount("cloister-prove", at, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("the host's files at %q: %w", at, err)
	}
	all, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := show(e, at); err != nil {
			return err
		}
	}
	// The one node that attacks go for. Hosts may have none.
	var st unix.Stat_t
	if err := unix.Stat("/dev/kmsg", &st); err != nil {
		return nil //nolint:nilerr // the attack is not counted then
	}
	return unix.Mknod(filepath.Join(at, "dev", "kmsg"), st.Mode, int(st.Rdev))
}

// show shows one entry of / at a folder.
func show(e os.DirEntry, at string) error {
	from, to := filepath.Join("/", e.Name()), filepath.Join(at, e.Name())
	if e.Type()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if !e.IsDir() {
		return nil
	}
	if err := os.Mkdir(to, 0o755); err != nil || e.Name() == "dev" {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("the host's %q at %q: %w", from, to, err)
	}
	return nil
}
