// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

// portVariable names the descriptor of the port that an agent leaves to the one that it starts
// anew.
const portVariable = "CLOISTER_PORT"

// IsTemplate says whether the host will save this guest before it serves. The kernel's line is the
// only word of the host before the port is open.
func IsTemplate() (bool, error) {
	line, err := os.ReadFile("/proc/cmdline")
	return guestapi.IsTemplate(string(line)), err
}

// StartAnew replaces the agent by a new one, which inherits the port. What Go draws when a program
// starts (the seeds of maps and hashes) is drawn from the guest's random pool then, and not the
// same in all guests of a template. It returns only with an error.
func StartAnew(port *os.File) error {
	raw, err := port.SyscallConn()
	if err != nil {
		return fmt.Errorf("restart the agent: %w", err)
	}
	var inherited int
	// Go opens every file with close-on-exec; the duplicate is the one that survives the exec.
	controlErr := raw.Control(func(fd uintptr) { inherited, err = unix.Dup(int(fd)) }) // without close-on-exec
	if err = errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("restart the agent: port: %w", err)
	}
	env := append(os.Environ(), portVariable+"="+strconv.Itoa(inherited))
	// By its own path: the kernel names a process after the last part, and /proc/self/exe would
	// have process 1 be called exe.
	self, err := os.Readlink("/proc/self/exe")
	if err == nil {
		err = unix.Exec(self, os.Args, env)
	}
	return fmt.Errorf("restart the agent: %w", err)
}

// InheritedPort is the port that an agent got from the one before it; nil for the first agent of a
// guest. The caller owns the file. The variable is removed at once, so that no process that the
// agent starts inherits it.
func InheritedPort() (*os.File, error) {
	value := os.Getenv(portVariable)
	if value == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(value)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: %w", portVariable, value, err)
	}
	// The descriptor came without it, see StartAnew. A container's runtime must not inherit the
	// port: whoever holds it can speak to the host as the agent.
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "port"), os.Unsetenv(portVariable)
}

// shareDevice is the platform device of the share's slot, empty while the kernel booted: the first
// on the kernel's line.
const (
	shareDevice = "virtio-mmio.0"
	bindDriver  = "/sys/bus/platform/drivers/virtio-mmio/bind"
)

// balloons is the folder of the balloon's driver.
const balloons = "/sys/bus/virtio/drivers/virtio_balloon"

// LeaveBalloon takes the balloon from its driver, which would tell the host of pages that are free.
// A guest without a balloon is no error.
func LeaveBalloon() error {
	_, err := leaveBalloon()
	return err
}

// WithoutBalloon calls do while the balloon has no driver. The driver takes free memory, up to
// 128 MiB at once, until the host has answered that it knows of it; who needs most of the memory
// meanwhile makes the kernel panic ("System is deadlocked on memory"): process 1 cannot be killed.
func WithoutBalloon(do func() error) error {
	devices, err := leaveBalloon()
	if err == nil {
		err = do()
	}
	return errors.Join(err, tellBalloons("bind", devices))
}

// leaveBalloon returns the devices that have no driver now, for tellBalloons.
func leaveBalloon() (devices []string, err error) {
	if devices, err = filepath.Glob(balloons + "/virtio*"); err != nil {
		return nil, fmt.Errorf("find the balloon: %w", err)
	}
	return devices, tellBalloons("unbind", devices)
}

// tellBalloons writes the names of the devices into a file of the driver: bind or unbind.
func tellBalloons(file string, devices []string) error {
	for _, device := range devices {
		if err := os.WriteFile(filepath.Join(balloons, file), []byte(filepath.Base(device)), 0); err != nil {
			return fmt.Errorf("%s the balloon's driver: %w", file, err)
		}
	}
	return nil
}

// BindShare has the kernel look again at the slot in which the share is now. The kernel found the
// slot empty when the template was booted, but keeps its platform device. Binding the driver again
// probes it. The line of the share's device comes first in the machine, see vmm/qemu. A slot that
// is still empty is no error: a machine may have no share, and one that should have fails at the
// mount.
func BindShare() error {
	if err := os.WriteFile(bindDriver, []byte(shareDevice), 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("find the share's device: %w", err)
	}
	return nil
}
