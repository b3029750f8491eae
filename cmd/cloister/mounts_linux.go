// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownMounts in the environment tells this program that it runs in a mount namespace of its own. A
// user could set it; keepMounts checks the namespace, so that this is an error and not a host
// without mounts.
const ownMounts = "CLOISTER_OWN_MOUNTS"

// keepMounts keeps what this process mounts from the host. The mount namespace must be its own: the
// mounts of others would no longer reach anybody else. Slave, so that mounts of the host still
// arrive here.
func keepMounts() error {
	own, ownErr := os.Readlink("/proc/self/ns/mnt")
	// Compared with the parent, which made the namespace for this process. Without the check the
	// flags of the host's own mounts would be changed.
	parents, parentErr := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err := errors.Join(ownErr, parentErr); err != nil {
		return err
	}
	if own == parents {
		return errors.New("this program expects a mount namespace of its own: do not call its hidden verbs, and unset " + ownMounts)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	return nil
}

// withOwnMounts calls do in a mount namespace of its own, as a shim has one: what do mounts goes
// with the process, however that ends. The namespace is a new process's, this program with the same
// arguments, and its exit status is the error. A killed verb would otherwise leave its mounts on
// the host, where nobody takes them away.
func withOwnMounts(ctx context.Context, std stdio, do func() error) error {
	// This is the child.
	if os.Getenv(ownMounts) != "" {
		if err := keepMounts(); err != nil {
			return err
		}
		return do()
	}
	// Go cannot enter a new mount namespace with all threads, so a new process has it from its
	// first instruction.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...) //nolint:gosec // its own
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, std.out, std.err
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	// SIGTERM and not SIGKILL: the child takes back what it has made.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	// With the parent the child goes as well; its mounts go with its namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err = cmd.Run()
	// The child has printed its error.
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exitError(exit.ExitCode())
	}
	return orRoot(err)
}
