// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/log"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cloister/labels/lsm"
	"cloister/oci"
)

// proveHere is the verb as which prove goes on, in a mount namespace of its own. It is a verb of
// its own, and hidden: only prove may start it.
const proveHere = "prove-here"

const proveText = `Starts two throwaway sandboxes as the config says, and attacks the host and one of them from the
place of the other one's QEMU and file server: in their jail, under their label or profile. Each
attack is also made by root without any layer, where it has to succeed, and with each layer alone:
the table says which layers stop it by themselves. An attack that root cannot make either shows
nothing about this host, and is listed with the reason.

With the class process, of the config or of --class, they are two plain containers, as containerd
makes them by default, and the attacks come from inside one of them. Plain containers share the
host's kernel: what they do not promise is listed, and not attacked.

It takes no image and no network, and leaves nothing behind. Ends with status 3 if an attack has
succeeded.`

// runProve is the verb prove. It starts itself again, since what it does needs a mount namespace.
func runProve(std stdio) *cobra.Command {
	c := newCommand(std, "prove", proveText)
	c.withOutput("table")
	class := classFlag(c.Command)
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		// Attacks of another user would prove nothing about the sandbox's layers.
		if os.Geteuid() != 0 {
			return errors.New("prove starts sandboxes: run it as root")
		}
		format := *c.format
		if *c.asJSON {
			format = "json"
		}
		// The child prints, in the form that was asked for.
		args := []string{proveHere, "--output", format}
		if config := configOf(c.Command); config != "" {
			args = append(args, "--config", config)
		}
		if *class != "" {
			args = append(args, "--class", *class)
		}
		return again(ctx, std, args)
	})
}

// classFlag is how a host is proved whose config has the other class: a runtime's name may choose
// it.
func classFlag(c *cobra.Command) *string {
	class := c.Flags().String("class", "", "attack from a sandbox of this `class`, vm or process (default the config's)")
	_ = c.RegisterFlagCompletionFunc("class",
		cobra.FixedCompletions([]string{string(oci.ClassVM), string(oci.ClassProcess)}, cobra.ShellCompDirectiveNoFileComp))
	return class
}

// again runs this program in a mount namespace of its own, which takes what is mounted with it. Its
// signal handling differs from withOwnMounts: an interrupted prove must end its two sandboxes
// first.
func again(ctx context.Context, std stdio, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdout, cmd.Stderr = std.out, std.err
	// The attacks run in sandboxes that must be destroyed, so not SIGKILL.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it takes back what it has done
	// This is the main thread, which lives as long as the program: see main.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exitError(exit.ExitCode())
	}
	return err
}

// runProveHere does what prove is about.
func runProveHere(std stdio) *cobra.Command {
	c := newCommand(std, proveHere, "What prove runs.")
	c.withOutput("table")
	class := classFlag(c.Command)
	c.Hidden = true
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		// Before anything is mounted.
		if err := keepMounts(); err != nil {
			return err
		}
		if err := log.SetLevel("warn"); err != nil { // the phases of the sandboxes say nothing of attacks
			return err
		}
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		switch wanted := oci.Class(*class); wanted {
		case "":
		case oci.ClassVM, oci.ClassProcess:
			s.config.Class = wanted
		default:
			return wrongUsage(c.Command, fmt.Errorf("--class %q: it is %s or %s", wanted, oci.ClassVM, oci.ClassProcess))
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		report, err := proveFrom(ctx, s.config, self)
		if err != nil {
			return ownDomain("prove", lsm.Host{}, err)
		}
		printed, err := c.emit(report)
		if !printed && err == nil {
			err = report.Write(std.out)
		}
		// Also with JSON: a script looks at the status.
		if n := len(report.Succeeded()); err == nil && n > 0 {
			err = notWell("prove: %d of %d attacks succeeded", n, len(report.Outcomes))
		}
		return err
	})
}
