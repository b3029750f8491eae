// SPDX-License-Identifier: Apache-2.0

//go:build crashtest

package main

import (
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// crashEnv names a folder. In it, oci.steps gets a line for each step that this program reaches,
// and oci.at has the step at which it dies.
const crashEnv = "CLOISTER_CRASHTEST"

// crashFolder is open from the start: the proxy leaves the host's root.
var crashFolder, _ = os.Open(os.Getenv(crashEnv))

// reached writes down a step, and kills this process at the one that was asked for. The steps file
// tells the test which steps there are, so a new one cannot be forgotten.
func reached(step string) {
	if crashFolder == nil {
		return
	}
	steps, err := crashFile("oci.steps", unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
	if err != nil {
		panic(err)
	}
	_, _ = steps.WriteString(step + "\n")
	_ = steps.Close()
	at, err := crashFile("oci.at", unix.O_RDONLY)
	if err != nil {
		return // live
	}
	text, _ := io.ReadAll(at)
	_ = at.Close()
	if strings.TrimSpace(string(text)) == step {
		// SIGKILL, so that no defer and no cleanup runs; syscall.Exit runs none either.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		syscall.Exit(137) // the proxy is process 1 of its pid namespace, which no signal from itself kills
	}
}

// crashFile opens below the folder's descriptor, since a name would be looked up in the container's
// root.
func crashFile(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(crashFolder.Fd()), name, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
