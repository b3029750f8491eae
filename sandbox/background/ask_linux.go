// SPDX-License-Identifier: Apache-2.0

package background

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox"
	"cloister/sandbox/template"
	"cloister/sys"
)

// BuilderName is what this program is called where it builds a template: see Build. A program that
// asks for templates must look at it first thing in main.
const BuilderName = "cloister-template"

// IsBuilder finds BuilderName in a program's arguments. args are os.Args.
func IsBuilder(args []string) bool { return len(args) > 0 && args[0] == BuilderName }

// Asker asks for templates. It may be used by several goroutines.
type Asker struct {
	Mounts *os.File // the host's mount namespace: the asker's own has its sandbox's mounts
	Path   string   // of the config; empty for the host's own
	Config sandbox.Config
}

// Ask starts a builder and returns at once. The result is a line in the log. The builder goes
// on when this process ends.
func (a Asker) Ask(ctx context.Context, size template.Size) {
	ctx = context.WithoutCancel(ctx)
	go func() {
		if err := a.ask(ctx, size); err != nil {
			log.G(ctx).WithError(err).Warn("no template is built in the background")
		}
	}()
}

// maxSaid bounds what a builder says.
const maxSaid = 4 << 10

func (a Asker) ask(ctx context.Context, size template.Size) error {
	said, says, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close() // read only
	// The running program, even if its file has been replaced by an update.
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives this process
	cmd.Args = []string{BuilderName, strconv.Itoa(size.LimitMiB), strconv.Itoa(size.CPUs), size.Machine, a.Path}
	cmd.Stdout, cmd.Stderr, cmd.Dir = says, says, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	err = sys.Namespaces{Mount: a.Mounts}.Do(func() error {
		// Of this thread, which ends here; the builder and all that it starts inherit them.
		if err := yield(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err := errors.Join(err, says.Close()); err != nil {
		return fmt.Errorf("start the builder: %w", err)
	}
	text, readErr := io.ReadAll(io.LimitReader(said, maxSaid))
	err = cmd.Wait()
	if text = bytes.TrimSpace(text); err == nil {
		log.G(ctx).Infof("template in the background: %s", text)
		return readErr
	}
	// A builder that was killed takes nothing back; nobody has its name again.
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		err = errors.Join(err, a.sweep(ctx))
	}
	return errors.Join(fmt.Errorf("%w: %s", err, text), readErr)
}

// sweep takes back what a killed builder has left on the host.
func (a Asker) sweep(ctx context.Context) error {
	_, err := a.Config.Templates().Sweep()
	return errors.Join(err, a.Config.Recovery().CollectNamespace(ctx, sandbox.TemplateNamespace))
}

// Values of ioprio_set(2), which package unix does not have.
const (
	ioprioWhoProcess = 1
	ioprioClassIdle  = 3
	ioprioClassShift = 13
)

// niceness leaves a builder a tenth of what a process beside it gets.
const niceness = 10

// yield has the calling thread wait for others, for the CPU and for disks.
func yield() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioClassIdle<<ioprioClassShift)
	if errno != 0 && errno != unix.ENOSYS { // a kernel without block devices has none
		return fmt.Errorf("set priority of I/O: %w", errno)
	}
	return nil
}
