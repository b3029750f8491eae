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

// ownMounts in the environment tells this program that it runs in a mount namespace of its own.
const ownMounts = "CLOISTER_OWN_MOUNTS"

// withOwnMounts calls do in a mount namespace of its own, as a shim has one: what do mounts goes
// with the process, however that ends. The namespace is a new process's, this program with the same
// arguments, and its exit status is the error.
func withOwnMounts(ctx context.Context, std stdio, do func() error) error {
	if os.Getenv(ownMounts) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("keep mounts from the host: %w", err)
		}
		return do()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...) //nolint:gosec // its own
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, std.out, std.err
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exitError(exit.ExitCode())
	}
	return orRoot(err)
}
