// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/uevent"
)

const (
	scsiDevices = "/sys/bus/scsi/devices"
	scsiHosts   = "/sys/class/scsi_host"
)

// FindDisk waits for a LUN's disk and gives its number. The number is chosen by the guest's kernel
// when the disk appears. The limit is ctx's alone.
func FindDisk(ctx context.Context, lun int) (major, minor uint32, err error) {
	node, err := waitDisk(ctx, lun)
	if err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: node, Err: err}
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}

// waitDisk gives the device node of the LUN of the one virtio-scsi controller
// (channel 0, target 0). The kernel tells of a disk when it is ready. Machines may plug a disk in
// after boot, and the kernel does not look for LUNs by itself: the scan makes it.
func waitDisk(ctx context.Context, lun int) (string, error) {
	// Listen before looking, or the event could fall in between.
	events, err := uevent.Listen()
	if err != nil {
		return "", err
	}
	defer events.Close()
	device, err := findDisk(lun)
	if err != nil || device != "" {
		return device, err
	}
	if err := scanDisk(lun); err != nil {
		return "", err
	}
	for {
		device, err := findDisk(lun)
		if err != nil || device != "" {
			return device, err
		}
		if err := events.Wait(ctx); err != nil {
			return "", fmt.Errorf("wait for disk %d: %w", lun, err)
		}
	}
}

// findDisk gives the device node of a LUN that can be opened, or none: the kernel makes the node
// first (device_add_disk in its block/genhd.c), and tells of the disk last.
func findDisk(lun int) (string, error) {
	// "*" is the number of the SCSI host, which depends on the order of drivers.
	found, err := filepath.Glob(filepath.Join(scsiDevices, "*:0:0:"+strconv.Itoa(lun), "block", "*"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	// sysfs writes a slash in a device's name as an exclamation mark.
	node := filepath.Join("/dev", strings.ReplaceAll(filepath.Base(found[0]), "!", "/"))
	disk, err := os.Open(node)
	// The node is there, but the disk behind it is not ready.
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return node, disk.Close()
}

// scanDisk asks every SCSI host for channel 0, target 0 and this LUN. The other hosts have no such
// target, and say nothing.
func scanDisk(lun int) error {
	hosts, err := filepath.Glob(filepath.Join(scsiHosts, "host*", "scan"))
	if err != nil {
		return err
	}
	for _, scan := range hosts {
		if err := os.WriteFile(scan, []byte("0 0 "+strconv.Itoa(lun)), 0); err != nil {
			return fmt.Errorf("scan for disk %d: %w", lun, err)
		}
	}
	return nil
}
