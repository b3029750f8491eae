// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
)

// Planner plans containers by the host's configuration. It holds no state: one Planner plans for a
// whole sandbox, and again for each later container.
type Planner struct {
	Workloads oci.Options
	Labels    []plan.LabelRule
}

// Planned is a container's plan, and the files that it speaks of. The descriptors in it are what
// the plan was made from. They are used until the container is added, so that no name is resolved a
// second time.
type Planned struct {
	plan.Container

	source content.Container
	files  *content.Files
}

// Close closes the files. It may be repeated, and called of nil.
func (a *Planned) Close() {
	if a != nil {
		a.files.Close()
	}
}

// Plan opens what a container's configuration names, and plans the container. It changes nothing on
// the host. The caller closes the result. Errors of all fields come together. An id that is no file
// name is errdefs.ErrInvalidArgument.
func (p Planner) Plan(c content.Container) (_ *Planned, err error) {
	// First: the id becomes a name in the share and in the state folder.
	if _, err := statedir.ParseID(c.ID); err != nil {
		return nil, err
	}
	rules, err := content.Rules(p.Workloads.Sockets, p.Workloads.Watch, p.Labels)
	if err != nil {
		return nil, err
	}
	a := &Planned{source: c}
	defer func() {
		if err != nil {
			a.files.Close()
		}
	}()
	var found []plan.Source
	if a.files, found, err = content.Open(c); err != nil {
		return nil, err
	}
	// The error waits, so that a user sees it together with those of the plan.
	nodes, nodesErr := content.Nodes(c.Workload)
	a.Container, err = plan.NewContainer(plan.Request{
		ID: c.ID, Workload: c.Workload, Rootfs: c.Rootfs, Blocks: content.BlockDevices(c.Rootfs),
		Sources: found, Nodes: nodes, Tokens: tokens(len(found)), Rules: rules,
	})
	if err := errors.Join(err, nodesErr, content.MappableRootfs(c.Rootfs)); err != nil {
		return nil, err
	}
	if a.Pause {
		return a, nil
	}
	return a, a.files.OpenRootfs(c, a.Rootfs)
}

// Admit has the driver label what is shared with the guest, or refuse it. No file is labelled of a
// pause container, which stays on the host. It is called before a guest has run, for the first
// container: a label that is refused costs no machine. Labels are in the relabel journal before
// they change, and Driver.Release gives the files back what they had.
func (a *Planned) Admit(ctx context.Context, driver confine.Driver) error {
	if a.Pause {
		return nil
	}
	for _, d := range a.Rootfs.Disks {
		if err := prepareDisk(ctx, driver, d); err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
	}
	if f := a.files.Rootfs(); f != nil {
		if err := admitFolder(ctx, driver, f, f, plan.Treatment{}); err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
	}
	for _, v := range a.Volumes {
		if f := a.files.Source(v.Mount); f != nil {
			if err := admitFolder(ctx, driver, f, f, v.Treatment); err != nil {
				return fmt.Errorf("mount %q: %w", v.Destination, err)
			}
		}
	}
	return a.admitCopies(ctx, driver)
}

// admitCopies admits the files that the guest gets a copy of.
func (a *Planned) admitCopies(ctx context.Context, driver confine.Driver) error {
	admit, err := a.copies(driver)
	if err != nil {
		return err
	}
	for _, c := range a.Copies {
		if err := admit(ctx, a.files.Source(c.Mount)); err != nil {
			return fmt.Errorf("mount %q: %w", c.Destination, err)
		}
	}
	return nil
}

// copies gives what admits a file that the guest gets a copy of. Only the shim reads it, so the
// label that the engine gave the container's mounts is enough. The driver looks only whether the
// shim may read the file.
func (a *Planned) copies(driver confine.Driver) (admit func(context.Context, *os.File) error, err error) {
	var label labels.Label
	if text := a.source.Workload.Labels.Mount; text != "" && len(a.Copies) > 0 {
		if label, err = labels.Parse(text); err != nil {
			return nil, fmt.Errorf("linux.mountLabel: %w", err)
		}
	}
	return func(ctx context.Context, f *os.File) error {
		return driver.Admit(ctx, confine.File{Kind: confine.Copy, Host: f, Label: label})
	}, nil
}

// prepareDisk makes a disk's file system, unless it is there, and has the driver admit the disk. It
// is called for a first container's disks twice, in Admit and when the disk is plugged; the second
// time everything is there already.
func prepareDisk(ctx context.Context, driver confine.Driver, d plan.Disk) error {
	if d.MkfsBytes > 0 {
		if err := content.MakeFileSystem(ctx, d); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(d.Path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close() // O_PATH
	return driver.Admit(ctx, confine.File{Kind: confine.Disk, Host: f, ReadOnly: d.ReadOnly, New: d.MkfsBytes > 0})
}

// admitFolder admits what is shown to the guest. host is the file on the host, shown the same file
// as the file server sees it. Before the container is in the share the two are the same descriptor.
func admitFolder(ctx context.Context, driver confine.Driver, host, shown *os.File, t plan.Treatment) error {
	return driver.Admit(ctx, confine.File{Kind: confine.Folder, Host: host, Shown: shown, Sharing: t.Sharing, Label: t.Label})
}

// tokens are random names for the streams of sockets. One is drawn for each source, used or not:
// the plan is pure and can draw none.
func tokens(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = string(guestapi.NewToken())
	}
	return out
}
