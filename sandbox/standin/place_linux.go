// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"cloister/labels/lsm"
	"cloister/sandbox/config"
	"cloister/sandbox/confine"
	"cloister/sandbox/host"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/prove"
	"cloister/sandbox/statedir"
)

// Place is where the processes of a sandbox are. Everything in it is the running sandbox's and
// stays so; no program changes it.
type Place struct {
	VM     *hypervisor.VM
	Driver confine.Driver
	Jail   jail.Config
	MAC    string       // the driver
	Dir    statedir.Dir // the sandbox's
	Empty  *os.File     // QEMU's root directory; the caller's to close
	// Disguises are what Disguise made.
	Disguises map[confine.Role]string
}

// Layers are those of the place that are on. What [jail] disable names, and what the kernel lacks,
// is not among them: `cloister prove` attacks the host as it is configured.
func (p Place) Layers() []prove.Layer {
	return layersOf(p.Jail, p.MAC != string(confine.None), jail.LandlockABI())
}

// Disguise copies the attacker's program into a folder, once with the label of each program that it
// stands for: an SELinux domain is entered through a file of its type. Without SELinux it makes
// none. The folder must be on a file system that takes labels, and be the caller's to remove.
func Disguise(cfg config.Config, program, folder string) (map[confine.Role]string, error) {
	chosen, err := confine.Chosen(cfg.Labels)
	if err != nil || chosen != confine.SELinux {
		return nil, err
	}
	programs, err := host.Programs(cfg.Machine.QEMU, cfg.Machine.Virtiofsd)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(folder, 0o755); err != nil { // QEMU's user executes it
		return nil, err
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	// One copy for each role: the policy lets a domain be entered only through a file of its own
	// type.
	made := map[confine.Role]string{}
	for role, of := range map[confine.Role]string{confine.Machine: programs.QEMU, confine.FileServer: programs.Virtiofsd} {
		label, err := lsm.PathLabel(of)
		if err != nil {
			return nil, err
		}
		made[role] = filepath.Join(folder, string(role))
		if err := os.WriteFile(made[role], text, 0o755); err != nil { //nolint:gosec // QEMU's user executes it
			return nil, err
		}
		file, err := os.Open(made[role])
		if err != nil {
			return nil, err
		}
		if err := errors.Join(lsm.SetFileLabel(file, label), file.Close()); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// partsOf are the parts of the jail that make a layer. The mandatory access control is no part of
// the jail.
func partsOf(l prove.Layer) []jail.Part {
	switch l {
	case prove.User:
		return []jail.Part{jail.Users, jail.Capabilities, jail.NoNewPrivs}
	case prove.Seccomp:
		return []jail.Part{jail.Seccomp}
	case prove.Landlock:
		return []jail.Part{jail.Landlock}
	case prove.Root:
		return []jail.Part{jail.RootDir}
	case prove.Namespaces:
		return []jail.Part{jail.Namespaces}
	case prove.Cgroup:
		return []jail.Part{jail.Devices, jail.RLimits}
	case prove.MAC:
	}
	return nil
}

// layersOf are the layers of a host. A layer counts as on if one of its parts is. Landlock that is
// configured and not in the kernel stops nothing, and must not be shown as a layer.
func layersOf(c jail.Config, mac bool, landlockABI int) []prove.Layer {
	return slices.DeleteFunc(prove.All(), func(l prove.Layer) bool {
		switch l {
		case prove.MAC:
			return !mac
		case prove.Landlock:
			if landlockABI == 0 {
				return true
			}
		case prove.User, prove.Seccomp, prove.Root, prove.Namespaces, prove.Cgroup:
		}
		return !slices.ContainsFunc(partsOf(l), c.Has)
	})
}

// newSockets makes two connected sockets, the second one a stand-in's. They are made under the
// driver, which labels them for the process: with the shim's label a confined program could not use
// them.
func (p Place) newSockets() (ours, theirs *os.File, err error) {
	err = p.Driver.Sockets(func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		}
		return err
	})
	return ours, theirs, err
}

// Start starts cmd in the place of one of the sandbox's processes, with these layers alone. A
// stand-in that has all layers is read back as the sandbox's own processes are; one that has fewer
// differs on purpose.
func (p Place) Start(ctx context.Context, cmd *exec.Cmd, r confine.Role, with []prove.Layer) (prove.Process, error) {
	has := func(l prove.Layer) bool { return slices.Contains(with, l) }
	s := hypervisor.StandIn{
		Role: r, Jail: p.Jail, Confined: has(prove.MAC), Network: has(prove.Namespaces), Group: has(prove.Cgroup),
		Everything: len(with) == len(p.Layers()),
	}
	for _, l := range prove.All() {
		if !has(l) {
			// Cloned, since every Start begins with the same list of the configuration.
			s.Jail.Disable = append(slices.Clone(s.Jail.Disable), partsOf(l)...)
		}
	}
	if path, ok := p.Disguises[r]; ok && has(prove.MAC) {
		cmd.Path = path
	}
	if has(prove.Root) {
		s.Empty = p.Empty
	}
	ours, theirs, err := p.newSockets()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if err := p.VM.Replace(ctx, cmd, s); err != nil {
		return nil, errors.Join(fmt.Errorf("stand-in for %s with %v: %w", r, with, err), ours.Close())
	}
	return prove.Started(cmd, ours), nil
}
