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

// Users is the containers' user namespace, as the host asked for it.
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
	if err := held.Hold(os.Getpid(), held.Net, held.First); err != nil {
		return err
	}
	cmd := pause.Command()
	a := cmd.SysProcAttr
	a.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	a.UidMappings, a.GidMappings, a.GidMappingsEnableSetgroups = ranges(users.UIDs), ranges(users.GIDs), true
	a.Credential = &syscall.Credential{}
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
	return fmt.Errorf("start anew: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

func ranges(list []guestapi.IDRange) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, r := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)}
	}
	return out
}
