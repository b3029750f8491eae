// SPDX-License-Identifier: Apache-2.0

// Command run runs stages of the tests, all or those named, and ends with the counts. It fails when
// a test or a stage failed, or did not run though the machine has warm caches.
//
// The output of each stage is in build/log/STAGE.log. Environment: CLOISTER_CACHE, CLOISTER_BEGAN
// (seconds of the epoch at which the run began, where that was earlier), CLOISTER_MINUTES (84: what
// the whole run may take), TESTS (a pattern of go test -run for the stages with tests).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stages:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}
