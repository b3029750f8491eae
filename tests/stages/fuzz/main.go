// SPDX-License-Identifier: Apache-2.0

// Command fuzz runs every fuzz test of the tree for a short while, the one that ran longest ago
// first, and prints what go test -json prints. The seeds run in the unit tests; this looks a little
// further.
//
// It fits into CLOISTER_STAGE_SECONDS and says which tests it did not come to: the next run begins
// with them. Environment: FUZZTIME (the same time for each, whatever that takes), FUZZ (a pattern
// of FOLDER:NAME), FUZZJOBS (how many at once, 2), CLOISTER_CACHE.
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
	ok, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}
