// SPDX-License-Identifier: Apache-2.0

package clone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/jail"
	"cloister/sandbox/template"
)

// CopierName is what this program is called where it copies a template's memory: see Copier. Every
// program that starts sandboxes must look at it first thing in main, before it opens or logs
// anything.
const CopierName = "cloister-copy"

// Descriptors of a copier. It learns on its standard input what to copy.
const (
	fdTo   = 3
	fdFrom = 4
)

// IsCopier finds CopierName in a program's arguments. args are os.Args.
func IsCopier(args []string) bool { return len(args) > 0 && args[0] == CopierName }

// Copier is the whole of a copier; it returns the exit status. A page of memory is charged to the
// cgroup of the process that writes it first, whoever maps it later, and a process has one cgroup
// for all its threads. So a process in the sandbox's cgroup makes the copy.
func Copier() int {
	var extents []template.Extent
	err := json.NewDecoder(os.Stdin).Decode(&extents)
	// No order came: the start has ended before the copier did.
	if errors.Is(err, io.EOF) {
		return 1 // who started it gave up
	}
	if err == nil {
		err = template.Fill(os.NewFile(fdTo, "to"), os.NewFile(fdFrom, "from"), extents)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// copying is a copy that goes on. It ends with the process that began it. err may be read once done
// is closed.
type copying struct {
	done chan struct{} // closed once err is set
	err  error
}

// startCopy begins to copy a template's memory, in a cgroup. It returns as soon as the copier runs:
// the copy goes on beside virtiofsd's and QEMU's start, whose time it hides in.
func startCopy(to *os.File, from *template.Template, group *cgroup.Group) (*copying, error) {
	order, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	said, says, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, order.Close(), orders.Close())
	}
	// The running program, even if its file has been replaced by an update.
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it ends by itself, and with this process
	cmd.Args = []string{CopierName}
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = order, says, []*os.File{fdTo - 3: to, fdFrom - 3: from.Memory()}
	// A shim that is killed here leaves no copier behind that would keep the cgroup busy.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	// No label, filter or user: it is the shim's own program on the shim's own files, and no byte
	// of a guest comes near it.
	err = jail.Jail{Group: group}.Start(cmd)
	// The child has them. An end that stays open here would keep the reads below from ending.
	err = errors.Join(err, order.Close(), says.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy the template's memory: %w", err), orders.Close(), said.Close())
	}
	c := &copying{done: make(chan struct{})}
	go c.run(cmd, orders, said, from.Manifest.Extents)
	return c, nil
}

// maxSaid bounds what a copier says of its error.
const maxSaid = 4 << 10

// run sends the order only when the process is in its cgroup, since Start has returned: not one
// page is charged elsewhere.
func (c *copying) run(cmd *exec.Cmd, orders, said *os.File, extents []template.Extent) {
	defer close(c.done)
	err := errors.Join(json.NewEncoder(orders).Encode(extents), orders.Close())
	text, readErr := io.ReadAll(io.LimitReader(said, maxSaid))
	err = errors.Join(err, readErr, said.Close())
	if end := cmd.Wait(); end != nil {
		err = errors.Join(fmt.Errorf("%w: %s", end, bytes.TrimSpace(text)), err)
	}
	if err != nil {
		c.err = fmt.Errorf("copy the template's memory: %w", err)
	}
}

// wait blocks until the copy is over. It may be called more than once.
func (c *copying) wait() error {
	<-c.done
	return c.err
}
