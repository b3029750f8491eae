// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
)

// StandIn says what a program that stands for a process of the sandbox has of that process's place.
// It is for package prove alone; no workload runs in one.
type StandIn struct {
	Role       confine.Role
	Jail       jail.Config // the parts that it has
	Confined   bool        // by the driver
	Network    bool        // in the sandbox's network namespace
	Group      bool        // in the sandbox's cgroup
	Empty      *os.File    // QEMU's empty root directory, virtiofsd's is its tree; nil: the host's
	Everything bool        // it has all that the process has, which is read back
}

// Replace starts cmd in the place of a process of the sandbox. It is called when the guest runs,
// and cmd does nothing before it is told to. The sandbox's own processes go on. cmd is killed after
// an error.
func (v *VM) Replace(ctx context.Context, cmd *exec.Cmd, s StandIn) (err error) {
	// A VM of its own, so that the parts that are left out are left out of no process of the
	// sandbox.
	own := &VM{config: v.config, fileBytes: v.fileBytes}
	own.config.Jail = s.Jail
	if !s.Jail.Has(jail.Users) {
		own.config.Owner = jail.Owner{}
	}
	j, served, err := own.standIn(s, v.jails[s.Role].Files)
	if s.Empty != nil && s.Role == confine.Machine {
		var t jail.Tree
		if of := v.jails[s.Role].Tree; of != nil {
			t = *of
		}
		j = j.SeesOnly(s.Jail, t)
	}
	if err == nil {
		err = j.Start(cmd)
	}
	if err != nil {
		if served != nil {
			_ = served.Close() // O_PATH
		}
		return errors.Join(err, leave(j))
	}
	switch {
	case s.Empty != nil && s.Role == confine.Machine:
		own.root = j.Root
		err = own.Show(s.Empty, true)
	case served != nil:
		err = errors.Join(j.Root.Pivot(served), served.Close())
	}
	if err == nil && s.Everything {
		err = v.readBack(ctx, cmd, s.Role, j)
	}
	if err != nil {
		_, _ = cmd.Process.Kill(), cmd.Wait()
	}
	return err
}

// standIn is the jail of a stand-in, and what becomes the root of one for the file server. files
// are what the process itself may open; a stand-in's own program is added by the jail.
func (v *VM) standIn(s StandIn, files *jail.Files) (j jail.Jail, served *os.File, err error) {
	j = v.jailOf(s.Role)
	if s.Jail.Has(jail.Landlock) {
		if j.Files = files; files == nil {
			j.Files = &jail.Files{}
		}
	}
	// It installs no filter of its own, as QEMU does.
	if j.Calls != nil {
		j.Calls.OwnFilters = 0
	}
	if j.Kept != nil { // it gives nothing up itself
		j.Bounding = j.Kept
	}
	if !s.Confined {
		j.Label = nil
	}
	if !s.Network {
		j.Network = nil
	}
	if !s.Group {
		j.Group = nil
	}
	if s.Empty == nil && !s.Jail.Has(jail.Namespaces) {
		return j, nil, nil
	}
	if err := v.house(&j, s.Role == confine.FileServer); err != nil {
		return j, nil, err
	}
	if s.Empty != nil && s.Role == confine.FileServer && files != nil {
		served, err = j.Root.Folder(files.Tree)
	}
	return j, served, err
}

// readBack reads back a stand-in as Verify does the processes that it stands for. They have the
// same identity.
func (v *VM) readBack(ctx context.Context, cmd *exec.Cmd, r confine.Role, j jail.Jail) error {
	all := append(v.processes(), confine.Process{Role: r, PID: cmd.Process.Pid, Program: cmd.Path})
	// Other stand-ins may run, at the same level.
	if err := v.config.Driver.Verify(ctx, all...); err != nil && !errors.Is(err, confine.ErrClash) {
		return fmt.Errorf("stand-in: %w", err)
	}
	return j.Verify(cmd.Process.Pid)
}
