// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"cloister/sandbox/plan"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

func (s *Sandbox) takeLUN() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	lun := 0
	for s.luns[lun] {
		lun++
	}
	s.luns[lun] = true
	return lun
}

func (s *Sandbox) dropLUN(lun int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.luns, lun)
}

func (s *Sandbox) plug(ctx context.Context, lun int, d plan.Disk) error {
	disk := vmm.Disk{LUN: lun, Path: d.Path, ReadOnly: d.ReadOnly}
	f, err := qemu.OpenDisk(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.machine.AddDisk(ctx, disk, f)
}

func (s *Sandbox) unplug(ctx context.Context, lun int) error {
	select {
	case <-s.done:
		return nil
	default:
		return s.machine.RemoveDisk(ctx, lun)
	}
}

// makeFileSystem makes the image of a writable layer unless it is there: the
// engine leaves that to whoever mounts it.
func makeFileSystem(ctx context.Context, d plan.Disk) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(d.MkfsBytes), f.Close())
	if err == nil {
		args := []string{"-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"}
		if d.MkfsUUID != "" {
			args = append(args, "-U", d.MkfsUUID)
		}
		var out []byte
		out, err = exec.CommandContext(ctx, "mkfs.ext4", append(args, "--", d.Path)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("mkfs.ext4 %q: %w: %s", d.Path, err, out)
		}
	}
	if err != nil {
		// Half an image would be taken for a whole one the next time.
		err = errors.Join(err, os.Remove(d.Path))
	}
	return err
}
