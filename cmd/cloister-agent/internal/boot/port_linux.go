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

// OpenPort opens the virtio-serial port of a name, and waits for it to come.
func OpenPort(name string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), portWait)
	defer cancel()
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

// findPort gives the device of a named port, empty when there is none yet.
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
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(f)))
		if _, err := os.Stat(device); err == nil {
			return device, nil
		}
	}
	return "", nil
}

func openPort(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open port", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
