// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/vmm"
)

// OpenDisk opens what a disk is made of, a regular file or a block device, as AddDisk wants it. The
// caller closes it. Anything else is ErrInvalidArgument.
func OpenDisk(d vmm.Disk) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	// Without O_NONBLOCK a FIFO in the disk's place would hang the open.
	f, err := os.OpenFile(d.Path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("disk %d: %w", d.LUN, err)
	}
	if _, err := blockDriver(f); err != nil {
		return nil, errors.Join(fmt.Errorf("disk %d: %w", d.LUN, err), f.Close())
	}
	return f, nil
}

// blockDriver names QEMU's driver for an open file.
func blockDriver(f *os.File) (string, error) {
	info, err := f.Stat()
	switch mode := info.Mode(); {
	case err != nil:
		return "", err
	case mode.IsRegular():
		return "file", nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return "host_device", nil
	default:
		return "", fmt.Errorf("%s is neither a regular file nor a block device: %w", f.Name(), errdefs.ErrInvalidArgument)
	}
}

// diskID names a disk's device, block node and descriptor set.
func diskID(lun int) string { return fmt.Sprintf("disk%d", lun) }

// AddDisk puts a disk into a free LUN, before or after Continue; file is d's, open as OpenDisk
// does, and stays the caller's. QEMU opens no path. The format is always raw: QEMU never probes
// content that a guest can write, which could name other files of the host's. A LUN that is taken
// is ErrAlreadyExists.
func (p *Process) AddDisk(ctx context.Context, d vmm.Disk, file *os.File) error {
	if err := d.Validate(); err != nil {
		return err
	}
	driver, err := blockDriver(file)
	if err != nil {
		return fmt.Errorf("disk %d: %w", d.LUN, err)
	}
	p.disks.Lock()
	defer p.disks.Unlock()
	if p.luns[d.LUN] {
		return fmt.Errorf("disk %d: the LUN is taken: %w", d.LUN, errdefs.ErrAlreadyExists)
	}
	if err := p.addDisk(ctx, d, file, driver); err != nil {
		return fmt.Errorf("disk %d: %w", d.LUN, err)
	}
	p.luns[d.LUN] = true
	return nil
}

// addDisk does the three steps of QMP, and takes back those that were done when one fails.
func (p *Process) addDisk(ctx context.Context, d vmm.Disk, file *os.File, driver string) error {
	id := diskID(d.LUN)
	err := p.monitor.run(ctx, "add-fd", map[string]any{"fdset-id": d.LUN}, file)
	if err != nil {
		return err
	}
	node := map[string]any{
		"node-name": id, "driver": "raw", "read-only": d.ReadOnly, "discard": "unmap",
		"file": map[string]any{
			"driver": driver, "filename": fmt.Sprintf("/dev/fdset/%d", d.LUN), "read-only": d.ReadOnly, "discard": "unmap",
		},
	}
	if err := p.monitor.run(ctx, "blockdev-add", node, nil); err != nil {
		return errors.Join(err, p.removeFDs(ctx, d.LUN))
	}
	device := map[string]any{"driver": "scsi-hd", "id": id, "drive": id, "bus": "scsi0.0", "scsi-id": 0, "lun": d.LUN, "serial": id}
	if err := p.monitor.run(ctx, "device_add", device, nil); err != nil {
		return errors.Join(err, p.removeNode(ctx, d.LUN))
	}
	return nil
}

// RemoveDisk takes a disk away. The guest is expected to have unmounted it. It waits until the
// guest has let go of the device; a guest that does not keeps the disk, and the LUN stays taken.
func (p *Process) RemoveDisk(ctx context.Context, lun int) error {
	p.disks.Lock()
	defer p.disks.Unlock()
	if !p.luns[lun] {
		return fmt.Errorf("disk %d: %w", lun, errdefs.ErrNotFound)
	}
	if err := p.removeDevice(ctx, diskID(lun)); err != nil {
		return fmt.Errorf("disk %d: %w", lun, err)
	}
	delete(p.luns, lun)
	if err := p.removeNode(ctx, lun); err != nil {
		return fmt.Errorf("disk %d: %w", lun, err)
	}
	return nil
}

// removeDevice returns once QEMU says that the device is gone: device_del only asks the guest for
// it.
func (p *Process) removeDevice(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	deleted := make(chan struct{})
	p.mu.Lock()
	p.deleted[id] = deleted
	p.mu.Unlock()
	if err := p.monitor.run(ctx, "device_del", map[string]any{"id": id}, nil); err != nil {
		return err
	}
	select {
	case <-deleted:
		return nil
	case <-p.done:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("the guest has not released %s: %w", id, ctx.Err())
	}
}

// removeNode closes the disk in QEMU: the block node first, then the descriptor that it uses.
func (p *Process) removeNode(ctx context.Context, lun int) error {
	err := p.monitor.run(ctx, "blockdev-del", map[string]any{"node-name": diskID(lun)}, nil)
	if err != nil {
		return err
	}
	return p.removeFDs(ctx, lun)
}

func (p *Process) removeFDs(ctx context.Context, lun int) error {
	return p.monitor.run(ctx, "remove-fd", map[string]any{"fdset-id": lun}, nil)
}
