// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/held"
	"cloister/cmd/cloister-agent/internal/pause"
	"cloister/cmd/cloister-agent/internal/reap"
	"cloister/sandbox/guestapi"
)

// Users is the containers' user namespace, as the host asked for it. The kernel's line has it, and
// not a call: the namespace has to exist before any socket of the sandbox, and the agent serves
// calls only after that. The zero value means that there is none.
func Users() (guestapi.UserNamespace, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return guestapi.UserNamespace{}, err
	}
	return guestapi.ParseUserNamespace(string(line))
}

// enter makes the containers' user namespace, with all that is to belong to it, and starts the
// agent anew there: what opens a socket, sets a name or a sysctl does so where the containers are.
// The agent itself stays outside of the user namespace, and is root over it. A pause process has
// the namespaces, its pid namespace is the one that containers may share.
func enter(users guestapi.UserNamespace) error {
	// The first network namespace must keep a name: the machine's NICs and the kernel's events stay
	// in it, and the agent is about to leave it.
	if err := held.Hold(os.Getpid(), held.Net, held.First); err != nil {
		return err
	}
	cmd := pause.Command()
	a := cmd.SysProcAttr
	// One clone makes all of them, so that the user namespace owns the others. Network and ipc
	// settings obey only root of the owning user namespace.
	a.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	// setgroups must stay allowed: containers' runtimes drop and set supplementary groups.
	a.UidMappings, a.GidMappings, a.GidMappingsEnableSetgroups = ranges(users.UIDs), ranges(users.GIDs), true
	// The pause process becomes root of the new user namespace; unmapped, it would be nobody.
	a.Credential = &syscall.Credential{}
	// A monitor of its own: the one of the services does not exist yet. Its only state that matters
	// here, the OOM score, is the process's.
	if err := (&reap.Monitor{}).Spawn(cmd); err != nil {
		return fmt.Errorf("start pause process in user namespace %v: %w", users, err)
	}
	for _, name := range []string{held.PID, held.Net, held.IPC, held.UTS, held.User} {
		if err := held.Hold(cmd.Process.Pid, name, name); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // what it joins is what the new program has
	for _, name := range []string{held.Net, held.IPC, held.UTS} {
		ns, err := held.Open(name)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), 0)
		}
		if err != nil {
			return fmt.Errorf("join %s namespace: %w", name, err)
		}
	}
	return fmt.Errorf("restart the agent: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// ranges translates to Go's type; the host has checked the ranges when it made the kernel's line.
func ranges(list []guestapi.IDRange) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, r := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)}
	}
	return out
}
