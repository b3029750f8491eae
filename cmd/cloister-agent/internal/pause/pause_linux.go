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

// Command is a pause process in a pid namespace of its own, not yet started.
func Command() *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", Arg) // it ends with the guest
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=off"}
	return cmd
}

// Run reaps what is left to process 1. It does not return.
func Run() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cloister-agent pause: it runs as process 1 of a pid namespace")
		return
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		reap()
	}
}

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
