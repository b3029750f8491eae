// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Jail is what one process is started in. Its zero value changes nothing.
type Jail struct {
	// Label, when not nil, runs on the starting thread before all else: it sets the label
	// of the exec. It returns the function that clears it, which runs on the same thread right
	// after.
	Label func() (unset func(), err error)
	// Network, when not nil, is the network namespace of the process. It stays the caller's.
	Network *os.File
	// Root, when not nil, is the mount namespace of the process, in which its root can be replaced.
	Root *Root
	// Tree, when not nil, is what the process finds below its root directory. It needs a Root.
	Tree *Tree
	// PIDs, when not nil, is the pid namespace of the process. With a Root the process has a /proc
	// of its own that shows the namespace alone.
	PIDs *PIDs
	// KeepCapabilities has the process keep its capabilities when it takes on another user
	// (SECBIT_NO_SETUID_FIXUP), as a file server does to make files that are that user's.
	KeepCapabilities bool
	// Bounding, when not nil, is the most capabilities that the process and its children can
	// have. With the empty set they have none, whoever's they are, and the securebits that say
	// so are locked.
	Bounding *Set
	// Kept, when not nil, is the most that the first thread has when Verify is called: the program
	// has given up the rest of Bounding itself.
	Kept *Set
	// NoNewPrivs keeps every exec from giving more rights (PR_SET_NO_NEW_PRIVS), the first one
	// included: an SELinux policy must allow the transition by nnp_transition.
	NoNewPrivs bool
	// Files, when not nil, are what the process may open by name.
	Files *Files
	// Calls, when not nil, are the system calls that the process and its children may make.
	Calls *Calls
	// Isolate has the process in new namespaces: some of CLONE_NEWIPC, CLONE_NEWUTS,
	// CLONE_NEWCGROUP and CLONE_NEWNET. A pid namespace is none of them: see PIDs.
	Isolate uintptr
	// Group, when not nil, is the cgroup of the process, which it is in when Start returns.
	Group Group
	// OOMScore is the least oom_score_adj that the process gets; a higher one is inherited.
	OOMScore int
	// Owner is the process's user, group and supplementary groups. With a user other than root
	// it has no capability after its exec.
	Owner Owner
	// Limits are the resource limits of the process when Start returns.
	Limits Limits
	// Env is added to the environment of the command.
	Env []string
}

// Group is a cgroup of the host. Holds tells whether a process is in it.
type Group interface {
	Add(pid int) error
	Holds(pid int) (bool, error)
}

// Start starts cmd as cmd.Start does; on an error it does not run. The command must be the program
// itself, with no wrapper before it. Its standard files must be *os.File: os/exec would make a pipe
// whose label the program may not use. Pdeathsig works but with PIDs, which end with this process:
// the thread that starts the command lives as long as the command. Root and PIDs are closed when
// the command ends, or at once on an error.
func (j Jail) Start(cmd *exec.Cmd) error {
	if err := j.start(cmd); err != nil {
		_ = errors.Join(j.Root.Close(), j.PIDs.Close()) // always nil
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// start returns when the process runs in its jail. Its parent is a thread of this process, so
// cmd.Wait works as always.
func (j Jail) start(cmd *exec.Cmd) error {
	for _, stream := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if _, file := stream.(*os.File); stream != nil && !file {
			return fmt.Errorf("a standard file is a %T: want *os.File, since a pipe could not be used under a label", stream)
		}
	}
	if j.Tree != nil {
		if err := j.Root.narrow(*j.Tree, cmd.Path, j.PIDs == nil); err != nil {
			return err
		}
	}
	cmd.Env = append(cmd.Env, j.Env...)
	started := make(chan error, 1)
	// A thread whose label, namespaces, filter or capabilities were changed must not be given to
	// another goroutine: it starts the one program, waits for its end and dies.
	go func() {
		err := sys.OnThread(func() error {
			pidfd, err := j.startHere(cmd)
			if err != nil {
				return err
			}
			started <- nil
			park(pidfd)
			return errors.Join(j.Root.Close(), j.PIDs.Close())
		})
		if err != nil {
			started <- err
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	// The program may have begun to run, but no guest has: it is killed.
	if err := j.place(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), ended(cmd.Wait()))
	}
	return nil
}

// startHere runs on a thread that nobody else will use. A step that fails has changed a thread that
// ends.
func (j Jail) startHere(cmd *exec.Cmd) (pidfd int, err error) {
	if j.Label != nil { // first: the /proc that the thread enters does not have the thread
		unset, err := j.Label()
		if err != nil {
			return -1, err
		}
		defer unset()
	}
	if err := j.enter(); err != nil {
		return -1, err
	}
	// For this process too, which has what its guest's containers write. Of another user's
	// process the limit could be set with CAP_SYS_RESOURCE alone.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return -1, fmt.Errorf("set the core limit: %w", err)
	}
	if j.KeepCapabilities {
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("keep capabilities over a change of user: %w: the shim needs CAP_SETPCAP", err)
		}
	}
	if j.Bounding != nil {
		if err := j.Bounding.bound(); err != nil {
			return -1, err
		}
	}
	if j.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if err := j.confine(cmd.Path); err != nil {
		return -1, err
	}
	pidfd = -1
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.PidFD = &pidfd
	cmd.SysProcAttr.Cloneflags |= j.Isolate
	if j.Owner.ID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: j.Owner.ID, Gid: j.Owner.ID, Groups: j.Owner.Groups}
	}
	err = cmd.Start()
	// It points to a variable of this call.
	cmd.SysProcAttr.PidFD = nil
	return pidfd, err
}

// enter moves the calling thread into the namespaces that the process is to be in. /proc comes
// last: it shows the pid namespace of who mounts it, in the mount namespace of this thread.
func (j Jail) enter() error {
	if err := (sys.Namespaces{Network: j.Network}).Enter(); err != nil {
		return err
	}
	if err := j.Root.enter(); err != nil {
		return err
	}
	if err := j.PIDs.enter(); err != nil {
		return err
	}
	if j.Root == nil || j.PIDs == nil {
		return nil
	}
	return ownProc()
}

// confine restricts the calling thread to the files and system calls of the program that it starts
// next. The filter is last: what comes before needs calls that are not in the list.
func (j Jail) confine(program string) error {
	if j.Files != nil {
		if err := j.Files.restrict(program); err != nil {
			return err
		}
	}
	if j.Calls != nil {
		return j.Calls.install(j.Isolate)
	}
	return nil
}

// park holds the thread until the process has ended. A kernel without pidfds (-1, which poll leaves
// out) has it held for ever: rather a thread too many than a Pdeathsig too early.
func park(pidfd int) {
	if pidfd >= 0 {
		defer unix.Close(pidfd) // nothing is buffered
	}
	wait := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(wait, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// place does what is done to a process from outside.
func (j Jail) place(pid int) error {
	if j.Group != nil {
		if err := j.Group.Add(pid); err != nil {
			return err
		}
	}
	if err := j.Limits.limitFrom(pid, j.Owner); err != nil {
		return err
	}
	return raiseOOMScore(pid, j.OOMScore)
}

// ended leaves out the error of a command that was killed on purpose.
func ended(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}
