// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/sandbox/undo"
	"cloister/sys"
)

// container is a container's part of the sandbox. Its fields but started are written by Create
// alone, before the container is visible to other calls or by the call that makes it.
type container struct {
	id, bundle string // the engine's
	workload   *oci.Workload
	sandbox    *sandbox
	group      *cgroup.Group
	cgroups    string // linux.cgroupsPath; from prepare on as the OCI runtime gets it
	systemd    bool
	rootfs     string // what is mounted for it; empty for nothing
	volumes    []volume
	pid        int
	started    sync.Map      // ids of execs, by Start
	deleting   chan struct{} // full while a Delete is under way
}

// volume is a bind mount whose source was opened here. The descriptor belongs to the content.Files
// that prepare returns, and is closed with them.
type volume struct {
	index int // of the workload's mounts
	file  *os.File
}

// prepare does all that the OCI runtime finds done: label and mount the root file system, label the
// volumes, write the configuration. keep are files that must stay open until the container is
// created. The bundle that the OCI runtime gets is ours, in the sandbox's folder: the engine's
// config.json is not changed, and what the runtime reads is written here alone. After an error
// remove takes back what there is.
func (c *container) prepare(ctx context.Context, mounts []plan.Mount) (keep *content.Files, err error) {
	leaf, systemd, err := cgroup.Given(c.cgroups)
	if err != nil {
		return nil, err
	}
	if c.systemd = systemd; !systemd {
		c.cgroups = leaf
	}
	if c.group, err = cgroup.At(leaf); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Dir(c.ours()), c.ours()} {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	root := filepath.Join(c.bundle, "rootfs")
	if len(mounts) == 0 {
		// Docker, Podman and CRI-O have mounted it themselves.
		root = absolute(c.bundle, c.workload.Rootfs.Path)
	} else if err := c.mountRootfs(mounts, root); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	// Before the volumes: a root file system that cannot have the label makes the rest pointless,
	// and relabelling volumes is the costly part.
	if err := c.admitRootfs(ctx, root); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if c.labelled() { // else nothing of the engine's is touched
		c.workload.ClaimMemory(c.sandbox.memory, c.bundle)
	}
	files, found, err := content.Open(content.Container{ID: c.id, Bundle: c.bundle, Workload: c.workload})
	if err != nil {
		return nil, err
	}
	sources, err := c.admitVolumes(ctx, files, found)
	if err == nil {
		err = c.writeSpec(oci.ContainerInput{
			Root: root, Sources: sources, Label: text(c.sandbox.identity.Label), MountLabel: text(c.sandbox.identity.Files),
			Profile: c.sandbox.identity.Container, CgroupsPath: c.cgroups, NoDevices: c.labelled(),
		})
	}
	if err != nil {
		files.Close()
		return nil, err
	}
	return files, nil
}

// ours is the bundle that the OCI runtime gets.
func (c *container) ours() string { return c.sandbox.bundle(c.id) }

// absolute is a path of the configuration, which may be relative to the bundle.
func absolute(bundle, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(bundle, name)
}

// labelled says that the sandbox's files have labels. Without labels nothing of the engine's files
// is touched.
func (c *container) labelled() bool { return !c.sandbox.identity.Label.IsZero() }

// text is a label in a configuration; empty for none.
func text(l labels.Label) string {
	if l.IsZero() {
		return ""
	}
	return l.String()
}

// mountRootfs mounts the engine's root file system, with the sandbox's label where a mount can
// carry one. Then a device node of an image would have that label as well, whatever it is a node
// of: none is opened. It is mounted in the shim's mount namespace, a slave of the host's, which the
// OCI runtime inherits.
func (c *container) mountRootfs(mounts []plan.Mount, root string) error {
	if err := os.Mkdir(root, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	all := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		// Under the class's own shim name containerd is told that the shim takes no such mounts.
		// Another handler's name has the capabilities of class vm.
		if kind, _, transformed := strings.Cut(m.Type, "/"); transformed {
			return fmt.Errorf("mount of type %q: class process has no %s: use a snapshotter whose mounts the host can make: %w", m.Type,
				kind, errdefs.ErrInvalidArgument)
		}
		options := content.WithContext(m, c.sandbox.identity.Files)
		if c.labelled() {
			options = append(options, "nodev")
		}
		all = append(all, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: options})
	}
	// Before the mounts: when the third of three fails, remove unmounts the two.
	c.rootfs = root
	if err := mount.All(all, root); err != nil || !c.labelled() {
		return err
	}
	// The option alone is lost on a bind mount, whose flags count only when they are set
	// afterwards.
	return unix.MountSetattr(unix.AT_FDCWD, root, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
}

// admitRootfs labels a bound root file system, and reads the label of any other back. For what a
// mount makes, the label came with the option context=. A driver that finds another label there
// refuses the container.
func (c *container) admitRootfs(ctx context.Context, root string) error {
	top, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("root.path %q: no rootfs mounts were given and there is no folder there: %w: %w", root, err, errdefs.ErrNotFound)
	}
	defer top.Close() // O_PATH
	return c.sandbox.confine.Admit(ctx, confine.File{Kind: confine.Folder, Host: top})
}

// admitVolumes labels what the container's bind mounts name, or refuses it, and gives the paths by
// which the OCI runtime is to reach them. checkVolumes holds what it mounted against what was
// opened here: a name could lead elsewhere by then, and a descriptor is of no use to a process in
// another mount namespace. Sockets and watched folders have no rules here: a container of the host
// sees both by itself.
func (c *container) admitVolumes(ctx context.Context, files *content.Files, found []plan.Source) (map[int]string, error) {
	rules, err := content.Rules(nil, nil, c.sandbox.config.Rules)
	if err != nil {
		return nil, err
	}
	sources := map[int]string{}
	for i, m := range c.workload.Mounts {
		if m.Kind != oci.BindMount {
			continue
		}
		sources[i] = absolute(c.bundle, m.Source)
		f := files.Source(i)
		// hosts, hostname, resolv.conf and shared memory are the engine's, not a user's volumes.
		if m.Purpose != oci.Volume && m.Purpose != oci.TerminationLog {
			if sources[i], err = c.admitEngines(ctx, i, m, f); err != nil {
				return nil, fmt.Errorf("mount %q: %w", m.Destination, err)
			}
			continue
		}
		if f == nil {
			continue
		}
		if found[i].Problem != "" {
			return nil, fmt.Errorf("mounts[%d].source = %q, for %q: %s: %w", i, m.Source, m.Destination, found[i].Problem,
				errdefs.ErrInvalidArgument)
		}
		t, err := rules.Treatment(m, found[i])
		if err == nil {
			err = c.sandbox.confine.Admit(ctx, confine.File{Kind: confine.Folder, Host: f, Sharing: t.Sharing, Label: t.Label})
		}
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", m.Destination, err)
		}
		// The runtime gets the name without links, so that nothing on the way can be led elsewhere
		// by who owns a link.
		sources[i] = found[i].Real
		c.volumes = append(c.volumes, volume{index: i, file: f})
	}
	return sources, nil
}

// admitEngines has a file of the engine's own fit for the container, and gives what is mounted:
// where nothing is labelled, the file itself; else a pod's shared memory, labelled, or a labelled
// copy of a file of /etc. The engine may have given the host's own file of /etc, which must keep
// its label. A copy does not follow the engine's later changes.
func (c *container) admitEngines(ctx context.Context, i int, m oci.Mount, f *os.File) (string, error) {
	name := absolute(c.bundle, m.Source)
	if !c.labelled() {
		return name, nil
	}
	if m.Purpose == oci.SharedMemory {
		// The last name must be no link: it is labelled.
		memory, err := os.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		defer memory.Close() // O_PATH
		return name, c.sandbox.confine.Admit(ctx, confine.File{Kind: confine.Folder, Host: memory, Sharing: labels.Private})
	}
	if f == nil { // of a pod's first container, which reads none
		return name, nil
	}
	// Only the destination says that it is the engine's: a user may have named another sandbox's
	// file, which the shim may read and the container may not.
	var label labels.Label
	if given := c.workload.Labels.Mount; given != "" {
		var err error
		if label, err = labels.Parse(given); err != nil {
			return "", fmt.Errorf("linux.mountLabel: %w", err)
		}
	}
	if err := c.sandbox.confine.Admit(ctx, confine.File{Kind: confine.Copy, Host: f, Label: label}); err != nil {
		return "", err
	}
	data, err := content.ReadCopied(f)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	// The folder is root's, and O_EXCL keeps a leftover of a killed create from being taken.
	out, err := os.OpenFile(filepath.Join(c.ours(), "file-"+strconv.Itoa(i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	// Owner and mode are the source's, as its bind mount would show them: what root alone may read
	// stays so for the container's users.
	_, err = out.Write(data)
	err = errors.Join(err, out.Chown(int(st.Uid), int(st.Gid)), out.Chmod(os.FileMode(st.Mode&0o777)))
	// Labelled by its descriptor, before the container has it.
	err = errors.Join(err, c.sandbox.confine.Admit(ctx, confine.File{Kind: confine.Share, Host: out}), out.Close())
	return out.Name(), err
}

// writeSpec writes config.json for the OCI runtime: 0600, since it has the container's environment,
// where secrets are.
func (c *container) writeSpec(in oci.ContainerInput) error {
	spec, err := c.workload.ContainerSpec(in)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.ours(), "config.json"), spec, 0o600)
}

// effects are those of the container in the record, oldest first: the cgroup outlives what is in
// it. Whoever cleans up after a dead shim has the OCI runtime delete the container by these alone:
// Path is its state, Detail its program.
func (c *container) effects() []statedir.Effect {
	return []statedir.Effect{
		{Kind: statedir.KindCgroup, Path: c.group.String()},
		{Kind: statedir.KindContainer, Path: filepath.Join(c.sandbox.runtimeRoot(), c.id), Detail: c.sandbox.config.Runtime},
	}
}

// verify reads back that the first process waits to run under the sandbox's label, or with running
// that it does. One that has ended meanwhile has nothing to read. What the configuration asked for
// proves nothing: the kernel is asked. errUnread means that the label could not be read for lack of
// descriptors or memory; any other error, that it is wrong.
func (c *container) verify(ctx context.Context, pid int, waiting bool) error {
	err := c.sandbox.confine.Verify(ctx, confine.Process{
		Role: confine.Container, PID: pid, Starter: c.sandbox.config.Runtime, Waiting: waiting,
	})
	// A waiting process that is gone is an error: nothing may start in its place.
	if err == nil || waiting {
		return err
	}
	over, failed := ended(pid)
	if over {
		return nil
	}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		err = fmt.Errorf("%w: %w", errUnread, err)
	}
	return errors.Join(err, failed)
}

// errUnread is not the error of a wrong label: nothing is known of the label.
var errUnread = errors.New("the label of the process was not read back")

// ended says that a process is gone or a zombie, which has no label to read.
func ended(pid int) (bool, error) {
	s, err := sys.StatOf(pid)
	return s.Ended(), err
}

// checkVolumes refuses a container whose bind mounts are not the files that were admitted. What a
// later mount of the configuration hides cannot be seen, by the container neither. It is called
// while the first process waits, so nothing of the container has run yet.
func (c *container) checkVolumes() error {
	// The view of the process itself, whose mount namespace the runtime has made.
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", c.pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close() // O_PATH
	for _, v := range c.volumes {
		m := c.workload.Mounts[v.index]
		if slices.ContainsFunc(c.workload.Mounts[v.index+1:], func(later oci.Mount) bool {
			return hides(later.Destination,
				m.Destination)
		}) {
			continue
		}
		same, err := sameFile(root, m.Destination, v.file)
		if err != nil {
			return fmt.Errorf("mount %q: %w", m.Destination, err)
		}
		if !same {
			return fmt.Errorf("mount %q: source %q was replaced while the container was created: %w", m.Destination, m.Source,
				errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// hides says that what is mounted at one place hides another.
func hides(over, place string) bool {
	return over == place || over == "/" || strings.HasPrefix(place, over+"/")
}

// sameFile says that a name below root, whose links stay below it, is a file that is open.
// RESOLVE_IN_ROOT: an image may have links on the way to a mount point, and they mean the
// container's root.
func sameFile(root *os.File, name string, file *os.File) (bool, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return false, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var got, want unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &got), unix.Fstat(int(file.Fd()), &want)); err != nil {
		return false, err
	}
	return got.Dev == want.Dev && got.Ino == want.Ino, nil
}

// remove takes back what prepare and the OCI runtime did, whatever of it there is. The order is
// processes, cgroup, mounts, folder: each of them is busy as long as the one before is there. ctx
// gives values alone, because a client that has gone must not stop a cleanup. Only when all of it
// has succeeded are the effects struck out; else gc finds them in the record. It may be repeated.
func (c *container) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Limit)
	defer cancel()
	s := c.sandbox
	var errs []error
	// containerd's service has deleted it as a rule. A create that failed half-way leaves it here.
	if _, err := os.Stat(filepath.Join(s.runtimeRoot(), c.id)); err == nil {
		runtime := &runc.Runc{Command: s.config.Runtime, Root: s.runtimeRoot(), SystemdCgroup: c.systemd}
		errs = append(errs, runtime.Delete(ctx, c.id, &runc.DeleteOpts{Force: true}))
	}
	if c.group != nil {
		errs = append(errs, c.group.Kill(), c.group.Remove(ctx))
	}
	if c.rootfs != "" {
		errs = append(errs, mount.UnmountRecursive(c.rootfs, unix.MNT_DETACH))
	}
	errs = append(errs, sys.RemoveTree(c.ours()))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.forget(func(e statedir.Effect) bool {
		return slices.ContainsFunc(c.effects(), func(own statedir.Effect) bool { return own.Kind == e.Kind && own.Path == e.Path })
	})
}

// mountsOf are the root file system's mounts as the engine sent them, outermost first.
func mountsOf(r *taskapi.CreateTaskRequest) []plan.Mount {
	out := make([]plan.Mount, 0, len(r.GetRootfs()))
	for _, m := range r.GetRootfs() {
		out = append(out, plan.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	return out
}
