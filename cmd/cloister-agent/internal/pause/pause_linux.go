// SPDX-License-Identifier: Apache-2.0

package pause

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Arg is the agent's argument that runs a pause process.
const Arg = "pause"

// Command is a pause process in a pid namespace of its own, not yet started. One thread for Go code
// and no garbage collection keep its memory small: it allocates next to nothing.
func Command() *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", Arg) // it ends with the guest
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off"}
	return cmd
}

// Run reaps what is left to process 1. It does not return. A process 1 ignores every signal for
// which it has no handler, so only the end of the guest, or SIGKILL from outside, ends it.
func Run() {
	// As another process it would reap nothing and never end.
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cloister-agent pause: must be process 1 of a pid namespace")
		return
	}
	// One is enough: signals merge, and each one is followed by a loop over all dead children.
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		reap()
	}
}

// reap collects until no dead child is left: one SIGCHLD may stand for several.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
