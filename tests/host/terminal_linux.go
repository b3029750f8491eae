// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// OnTerminal runs a command to its end on a terminal of its own, as a user has one, and gives what
// the terminal has shown as its standard output. follow is called before the start and after each
// read, with all that was shown up to then, on a goroutine of its own: it types and sets the size.
// It may be nil.
//
// A pipe through script(1) would not do: the pipe's end is typed as ^D, perhaps before the program
// reads keys one by one, and then Podman loses the container's output with every runtime.
func OnTerminal(t testing.TB, cmd *exec.Cmd, follow func(terminal console.Console, shown string)) Result {
	t.Helper()
	terminal, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	side, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if follow == nil {
		follow = func(console.Console, string) {}
	}
	follow(terminal, "")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	// A session is a process group too. Its terminal tells it of new sizes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = side.Close()
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for buffer := make([]byte, 4096); ; follow(terminal, shown.String()) {
			n, err := terminal.Read(buffer)
			shown.Write(buffer[:n])
			if err != nil { // EIO: the last one has closed it
				return
			}
		}
	}()
	err = cmd.Wait()
	select {
	case <-closed:
	case <-time.After(Patience):
		t.Fatalf("%s has ended, and something keeps its terminal open", strings.Join(cmd.Args, " "))
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{Stdout: shown.String(), Code: cmd.ProcessState.ExitCode()}
}

// Type gives a follow for OnTerminal that types a text before the start.
func Type(t testing.TB, text string) func(console.Console, string) {
	t.Helper()
	return func(terminal console.Console, shown string) {
		if shown != "" {
			return
		}
		if _, err := terminal.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}
}
