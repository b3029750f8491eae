// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/uevent"
)

const (
	portNames = "/sys/class/virtio-ports/*/name"
	portWait  = time.Minute
)

// OpenPort opens the virtio-serial port of a name, and waits for it to come. The limit catches a
// guest that has no such port; the host's own limit for the boot is as long. An open port has one
// owner: the caller closes it.
func OpenPort(name string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), portWait)
	defer cancel()
	// Listen before looking: a port that appears between the look and the wait would be missed.
	events, err := uevent.Listen()
	if err != nil {
		return nil, err
	}
	defer events.Close()
	for {
		path, err := findPort(name)
		if err != nil {
			return nil, err
		}
		if path != "" {
			return openPort(path)
		}
		if err := events.Wait(ctx); err != nil {
			return nil, fmt.Errorf("wait for port %s: %w", name, err)
		}
	}
}

// findPort gives the device of a named port, empty when there is none yet. Port, name and node
// appear one after the other, each with an event: a port that is not complete yet is found by a
// later look.
func findPort(name string) (string, error) {
	files, err := filepath.Glob(portNames)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		got, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(got)) != name {
			continue // the name comes after the port
		}
		// The node is named like its folder in sysfs, as vport1p1.
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(f)))
		if _, err := os.Stat(device); err == nil {
			return device, nil
		}
	}
	return "", nil
}

// openPort opens the device. O_NONBLOCK puts the descriptor into Go's poller: a blocking read would
// hold a thread for the life of the guest, and Close could not end it.
func openPort(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open port", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
