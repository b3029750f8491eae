// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/oci"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// addDisk puts an image or block device into a free LUN.
func (s *Sandbox) addDisk(ctx context.Context, r *resident, d plan.Disk) (lun int, err error) {
	if err := s.prepareDisk(ctx, d); err != nil {
		return 0, err
	}
	lun = s.takeLUN()
	r.undo.push("lun", func(context.Context) error { s.dropLUN(lun); return nil })
	if err := s.plug(ctx, lun, d); err != nil {
		return 0, err
	}
	r.undo.push("disk "+d.Path, func(ctx context.Context) error { return s.unplug(ctx, lun) })
	return lun, nil
}

// addDevices hands over the block devices that the spec names, and says which
// numbers they have in the guest.
func (s *Sandbox) addDevices(ctx context.Context, r *resident, c Container, in *oci.GuestInput) error {
	in.Devices = map[int]oci.DeviceNumber{}
	for i, d := range c.Workload.Devices {
		if d.Kind != oci.HostBlock {
			continue
		}
		node, err := blockNode(d.Number)
		if err != nil {
			return fmt.Errorf("linux.devices %q: %w", d.Path, err)
		}
		lun, err := s.addDisk(ctx, r, plan.Disk{Path: node, ReadOnly: d.ReadOnly})
		if err != nil {
			return fmt.Errorf("linux.devices %q: %w", d.Path, err)
		}
		found, err := s.guest.Guest().FindDisk(ctx, &guestv1.FindDiskRequest{Lun: uint32(lun)})
		if err != nil {
			return fmt.Errorf("linux.devices %q: %w", d.Path, s.Explain(err))
		}
		in.Devices[i] = oci.DeviceNumber{Block: true, Major: int64(found.GetMajor()), Minor: int64(found.GetMinor())}
	}
	return nil
}

// blockNode is the host's node of a block device: sysfs knows its name.
func blockNode(n oci.DeviceNumber) (string, error) {
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", n.Major, n.Minor))
	if err != nil {
		return "", fmt.Errorf("%s is no block device of this host: %w: name one that `lsblk` shows", n, errdefs.ErrInvalidArgument)
	}
	node := filepath.Join("/dev", strings.ReplaceAll(filepath.Base(link), "!", "/"))
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return "", fmt.Errorf("%s: stat %q: %w", n, node, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || int64(unix.Major(st.Rdev)) != n.Major || int64(unix.Minor(st.Rdev)) != n.Minor {
		return "", fmt.Errorf("%q is not %s: %w", node, n, errdefs.ErrFailedPrecondition)
	}
	return node, nil
}

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
