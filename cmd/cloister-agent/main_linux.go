// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/containerd/log"

	"cloister/cmd/cloister-agent/internal/boot"
	"cloister/cmd/cloister-agent/internal/pause"
)

// version is set by the linker. The build of a guest image asks for it by --version and writes it
// into the image's manifest: Go's build information does not hold what the linker has set.
var version = "0.0.0-dev"

// memoryLimit is what the collector keeps the agent below, whose memory is the guest's. Collecting
// earlier than Go does by itself would fall into the first container's start.
const memoryLimit = 24 << 20

// main finds out which of the agent's roles it was started in: pause process, version, modprobe or
// process 1. The order matters: the pause process is process 1 of its own namespace, and only its
// argument tells it from the guest's.
func main() {
	if len(os.Args) == 2 && os.Args[1] == pause.Arg {
		pause.Run()
		return
	}
	if os.Getpid() != 1 && len(os.Args) == 2 && os.Args[1] == "--version" { // asked when an image is built
		fmt.Fprintln(os.Stdout, version)
		return
	}
	if boot.IsModprobe(os.Args) {
		if err := boot.LoadLate(os.Args[3]); err != nil {
			// The status is all that the kernel takes from its modprobe.
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cloister-agent: must be process 1 of a guest")
		os.Exit(2)
	}
	debug.SetMemoryLimit(memoryLimit)
	ctx := context.Background()
	if err := log.SetLevel("warn"); err != nil {
		log.G(ctx).WithError(err).Error("set log level")
	}
	if err := run(ctx); err != nil {
		// The console's tail is in the host's error.
		log.G(ctx).WithError(err).Error("cloister-agent ends")
	}
	// Reached after an error, and after the host hung up. Without this the kernel panics when
	// process 1 ends, which ends the guest as well but writes nothing back.
	boot.PowerOff(ctx)
}
