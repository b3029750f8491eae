// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Paths on the node. The link is what configs and units name, so an upgrade changes one link and no
// config. A version's folder is named after its bytes.
const (
	folder  = "/opt/cloister"            // a folder for each version, and the link to the one in use
	current = folder + "/current"        // the version in use
	pending = folder + "/restart-needed" // containerd's config was changed, and containerd not restarted
	tool    = current + "/bin/cloister"
	configs = "/etc/cloister/config.d"
)

// shim is the program of both runtimes, which tells them apart by the name it is called by.
const shim = current + "/bin/containerd-shim-cloister-v2"

// links are the names under which containerd and people find the programs, and what they lead to.
var links = map[string]string{ //nolint:gochecknoglobals // a constant
	"/usr/local/bin/cloister":                            tool,
	"/usr/local/bin/containerd-shim-cloister-v2":         shim,
	"/usr/local/bin/containerd-shim-cloister-process-v2": shim,
}

// answers is how long containerd may take to serve after a restart. A containerd with many
// containers reads all their state first.
const answers = 2 * time.Minute

// labeller changes labels of the node; an empty value takes one away. Tests have one that keeps the
// labels.
type labeller interface {
	Label(ctx context.Context, labels map[string]string) error
}

// node is a node and what is to be put on it. shell runs a script on the node; tests have another
// one. One goroutine uses a node.
type node struct {
	root, payload, settings string
	engine, restart, socket string
	name                    string
	labels                  labeller
	pause                   time.Duration // between two looks at the node's sandboxes
	out                     io.Writer
	shell                   func(ctx context.Context, root, script string) (string, error)
}

// path is that of a file of the node, seen from here. Everything that is read or written goes
// through it; a bare name would be in this container.
func (n *node) path(name string) string { return filepath.Join(n.root, name) }

// say prints a line of the log, from which an administrator sees what was done.
func (n *node) say(format string, args ...any) { fmt.Fprintf(n.out, format+"\n", args...) }

// do runs a command on the node. The error has the script and what it printed: nobody can look at
// the node's terminal.
func (n *node) do(ctx context.Context, script string) (string, error) {
	out, err := n.shell(ctx, n.root, script)
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(out))
	}
	return out, nil
}

// onHost runs a script in the mount namespace of the node's process 1, by the node's own nsenter.
// nsenter is the node's own, found by chroot, since this image has no programs. The pid namespace
// is the node's already, since the pod shares it.
func onHost(ctx context.Context, root, script string) (string, error) {
	args := []string{"--target", "1", "--mount", "--uts", "--ipc", "--net", "--", "/bin/sh", "-c", script}
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", args...)
	// The chroot is only so that this path and the program's libraries are the node's; nsenter then
	// enters the mount namespace of process 1, in which systemctl works.
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir = "/"
	// The node's own PATH is not known; variables of this container mean nothing there.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// install puts everything on the node, in an order in which each step finds what it needs, and
// labels the node last. Binaries come first, config next, and containerd's config last: a runtime
// that containerd knows must be able to start. The label is last of all, since the scheduler sends
// pods by it.
func (n *node) install(ctx context.Context) error {
	// Before anything is written: a package's files and these would be updated by two owners.
	if err := n.alone(); err != nil {
		return err
	}
	// Programs first: everything below runs them on the node.
	version, err := n.place()
	if err != nil {
		return err
	}
	if err := n.configure(); err != nil {
		return err
	}
	// Before the check, which asks the kernel about the types, and about the label of the shim that
	// place has just written.
	if n.selinux() {
		if _, err := n.do(ctx, tool+" policy install"); err != nil {
			return err
		}
	}
	// Before containerd learns of the runtime: a node that cannot run a sandbox must not offer one.
	if err := n.check(ctx); err != nil {
		return err
	}
	if err := n.register(ctx); err != nil {
		return err
	}
	// Only now: the old version's programs were in use until the link was changed.
	if err := n.prune(version); err != nil {
		return err
	}
	// It runs on the node, as a proof that the program does.
	said, err := n.do(ctx, tool+" version")
	if err != nil {
		return err
	}
	n.say("%s", strings.TrimSpace(said))
	return n.labels.Label(ctx, map[string]string{"io.cloister/runtime": "true", "io.cloister/version": labelValue(said)})
}

// remove takes everything back once no sandbox runs. The label goes first, so that no new pod
// comes; running ones are waited for. No sandbox is killed.
func (n *node) remove(ctx context.Context) error {
	if err := n.labels.Label(ctx, map[string]string{"io.cloister/runtime": "", "io.cloister/version": ""}); err != nil {
		return err
	}
	// Removed already, or never installed: the DaemonSet may run on every node.
	if _, err := os.Lstat(n.path(current)); errors.Is(err, fs.ErrNotExist) {
		n.say("cloister is not on this node")
		return nil
	}
	// Twice, before and after containerd forgets the runtime.
	if err := n.awaitIdle(ctx); err != nil {
		return err
	}
	if err := n.unregister(ctx); err != nil {
		return err
	}
	builder, err := n.awaitBuilder(ctx)
	if err != nil {
		return err
	}
	defer builder.Close()                    // ends the lock
	if err := n.awaitIdle(ctx); err != nil { // one may have started before containerd forgot the runtime
		return err
	}
	// Needs the programs and no running sandbox: their types go with the module.
	if n.selinux() {
		if _, err := n.do(ctx, tool+" policy remove"); err != nil {
			return err
		}
	}
	for link := range links {
		if err := os.Remove(n.path(link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	written, err := filepath.Glob(n.path(configs + "/*" + configSuffix))
	if err != nil {
		return err
	}
	// State and registry are empty once nothing runs. The folder with the link current goes last:
	// by it the next run sees that something is left.
	for _, name := range append(written, n.path("/run/cloister"), n.path("/var/lib/cloister"), n.path(folder)) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	// Remove, and not RemoveAll: only if they are empty.
	for _, name := range []string{configs, filepath.Dir(configs)} {
		_ = os.Remove(n.path(name)) // somebody may have put something there
	}
	n.say("cloister is removed")
	return nil
}

// awaitBuilder waits until no template is built in the background, and keeps others from it until
// the file is closed. A builder waits for some seconds before it has a sandbox that ps could show.
// It would write into the folders that are being removed.
func (n *node) awaitBuilder(ctx context.Context) (*os.File, error) {
	store, err := os.Open(n.path("/var/lib/cloister/templates"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // Close of it does nothing
	}
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(n.pause)
	defer tick.Stop()
	for said := false; ; said = true {
		err := unix.Flock(int(store.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return store, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", store.Name(), err), store.Close())
		}
		if !said {
			n.say("a template is being built on node %s: waiting until it is done", n.name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("node %s still builds a template: %w", n.name, ctx.Err()), store.Close())
		}
	}
}

// awaitIdle waits until the node has no sandbox. It has no limit of its own: pods may be drained
// for hours, and the DaemonSet's pod shows what it waits for.
func (n *node) awaitIdle(ctx context.Context) error {
	tick := time.NewTicker(n.pause)
	defer tick.Stop()
	for said := ""; ; {
		// What a dead shim has left may still run, and has labels to give back. gc also gives
		// labels back, which the module's removal would make unknown.
		if _, err := n.do(ctx, tool+" gc"); err != nil {
			return err
		}
		running, err := n.do(ctx, tool+" ps --all --quiet")
		if err != nil {
			return err
		}
		names := strings.Fields(running)
		if len(names) == 0 {
			return nil
		}
		// Said again only when the list has changed.
		if running != said {
			n.say("sandboxes on node %s: %d (%s), and it takes no new ones: waiting until their pods are deleted",
				n.name, len(names), names[0])
			said = running
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s still has %d sandboxes: %w", n.name, len(names), ctx.Err())
		case <-tick.C:
		}
	}
}

// alone is an error where cloister was put on the node in another way. Another installation has its
// own updates, and its config names other paths.
func (n *node) alone() error {
	if _, err := os.Lstat(n.path("/usr/bin/containerd-shim-cloister-v2")); err == nil {
		return fmt.Errorf("/usr/bin/containerd-shim-cloister-v2 is on node %s: remove the package cloister first", n.name)
	}
	for link, target := range links {
		leads, err := os.Readlink(n.path(link))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && leads != target {
			return fmt.Errorf("%s on node %s was not installed by cloister-node: remove it first", link, n.name)
		}
	}
	return nil
}

// selinux tells whether the node has it switched on. AppArmor needs nothing installed.
func (n *node) selinux() bool {
	_, err := os.Stat(n.path("/sys/fs/selinux/enforce"))
	return err == nil
}

// check is an error that has the lines of what the node lacks. Only lines that say fail: warnings
// are the administrator's own choice.
func (n *node) check(ctx context.Context) error {
	said, err := n.shell(ctx, n.root, tool+" check")
	// Status 0: no line says fail.
	if err == nil {
		return nil
	}
	var wrong []string
	// A remedy stands on the line below its finding.
	lines := strings.Split(said, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "  fail") {
			wrong = append(wrong, strings.TrimSpace(line))
			if i+1 < len(lines) && strings.HasPrefix(strings.TrimSpace(lines[i+1]), "->") {
				wrong = append(wrong, strings.TrimSpace(lines[i+1]))
			}
		}
	}
	if len(wrong) == 0 {
		return fmt.Errorf("%s check: %w: %s", tool, err, said)
	}
	return fmt.Errorf("node %s lacks what cloister needs: %s", n.name, strings.Join(wrong, "; "))
}

// register makes the runtime known to containerd. A config that containerd does not start with is
// taken back. It may be called again after a crash at any line: the file restart-needed says that
// containerd has not read the config yet.
func (n *node) register(ctx context.Context) error {
	command := fmt.Sprintf("%s install containerd --file '%s'", tool, n.engine)
	said, err := n.do(ctx, command+" --dry-run")
	if err != nil {
		return err
	}
	// Before the change: a run that is killed right after it would find the config changed, and
	// would not restart containerd.
	if strings.Contains(said, "not written") {
		if err := os.WriteFile(n.path(pending), nil, 0o600); err != nil {
			return err
		}
		if said, err = n.do(ctx, command); err != nil {
			return err
		}
		n.say("%s", strings.TrimSpace(said))
	}
	// No change was needed, and no restart is due from an earlier run.
	if _, err := os.Lstat(n.path(pending)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The config is tried before a containerd that works is stopped.
	_, err = n.do(ctx, fmt.Sprintf("containerd --config '%s' config dump >/dev/null", n.engine))
	if err == nil {
		err = n.restartEngine(ctx)
	}
	if err == nil {
		return os.Remove(n.path(pending))
	}
	// A node whose containerd does not start runs no pods at all, so everything is taken back at
	// once.
	_, undone := n.do(ctx, command+" --remove")
	if undone == nil {
		undone = n.restartEngine(ctx)
	}
	if undone == nil {
		undone = os.Remove(n.path(pending))
	}
	return errors.Join(fmt.Errorf("containerd does not start with the runtime in its config, which was taken out again: %w", err), undone)
}

// unregister takes the runtime out of containerd's config. Sandboxes are waited for by remove,
// before and after.
func (n *node) unregister(ctx context.Context) error {
	said, err := n.do(ctx, fmt.Sprintf("%s install containerd --file '%s' --remove", tool, n.engine))
	if err != nil {
		return err
	}
	n.say("%s", strings.TrimSpace(said))
	if !strings.Contains(said, "written ->") {
		return nil
	}
	return n.restartEngine(ctx)
}

// restartEngine restarts containerd and waits until it answers. What runs under it goes on. A shim
// is no child of containerd's, so containers live through the restart.
func (n *node) restartEngine(ctx context.Context) error {
	n.say("%s", n.restart)
	if _, err := n.do(ctx, n.restart); err != nil {
		return err
	}
	// The context's cause is what the administrator reads.
	ctx, cancel := context.WithTimeoutCause(ctx, answers, fmt.Errorf("containerd does not answer at %s after %s", n.socket, answers))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		// A connection is enough: containerd listens once its plugins are loaded.
		connection, err := (&net.Dialer{}).DialContext(ctx, "unix", n.path(n.socket))
		if err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
