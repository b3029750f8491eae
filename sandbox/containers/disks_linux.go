// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"fmt"

	"cloister/oci"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// addDisk puts an image or block device into a free LUN. The controller is in the machine from
// boot, so adding a LUN is no hot-plug of a device that microvm would lack.
func (s *Set) addDisk(ctx context.Context, r *resident, d plan.Disk) (lun int, err error) {
	if err := prepareDisk(ctx, s.config.Driver, d); err != nil {
		return 0, err
	}
	// The number is taken before the disk is plugged and given back after it is unplugged: two
	// containers that are added at once never get one LUN.
	lun = s.takeLUN()
	r.undo.Push("lun", func(context.Context) error { s.dropLUN(lun); return nil })
	if err := s.plug(ctx, lun, d); err != nil {
		return 0, err
	}
	r.undo.Push("disk "+d.Path, func(ctx context.Context) error { return s.unplug(ctx, lun) })
	return lun, nil
}

// addDevices hands over the block devices that the plan names, and says which numbers they have in
// the guest, by the index into the workload's devices. The guest's kernel draws the numbers, so
// they are asked for after the disk is there, and go into the guest's spec in place of the host's.
func (s *Set) addDevices(ctx context.Context, r *resident, a *Planned) (map[int]oci.DeviceNumber, error) {
	numbers := map[int]oci.DeviceNumber{}
	for _, d := range a.Devices {
		lun, err := s.addDisk(ctx, r, d.Disk)
		if err != nil {
			return nil, fmt.Errorf("linux.devices %q: %w", d.Path, err)
		}
		found, err := s.config.Guest.Guest().FindDisk(ctx, &guestv1.FindDiskRequest{Lun: uint32(lun)})
		if err != nil {
			return nil, fmt.Errorf("linux.devices %q: %w", d.Path, s.config.Explain(err))
		}
		numbers[d.Device] = oci.DeviceNumber{Block: true, Major: int64(found.GetMajor()), Minor: int64(found.GetMinor())}
	}
	return numbers, nil
}

// HasDisks reports whether the guest has disks, which it has to unmount. A guest without disks may
// be killed as soon as its last container has ended: what it wrote is with the file server by then.
// With disks it must write back its cache first.
func (s *Set) HasDisks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.luns) > 0
}

// takeLUN gives the lowest free number. One above vmm.MaxLUN is refused when the disk is plugged.
func (s *Set) takeLUN() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	lun := 0
	for s.luns[lun] {
		lun++
	}
	s.luns[lun] = true
	return lun
}

func (s *Set) dropLUN(lun int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.luns, lun)
}

// plug opens the disk here and passes the descriptor: QEMU opens no file by name once its guest
// runs.
func (s *Set) plug(ctx context.Context, lun int, d plan.Disk) error {
	disk := vmm.Disk{LUN: lun, Path: d.Path, ReadOnly: d.ReadOnly}
	f, err := qemu.OpenDisk(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.config.VM.AddDisk(ctx, disk, f)
}

// unplug has nothing to do when QEMU has ended: there is nobody to ask, and QEMU's descriptors are
// closed.
func (s *Set) unplug(ctx context.Context, lun int) error {
	select {
	case <-s.config.Done:
		return nil
	default:
		return s.config.VM.Machine.RemoveDisk(ctx, lun)
	}
}
