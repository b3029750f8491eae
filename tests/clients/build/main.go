// SPDX-License-Identifier: Apache-2.0

// Command build makes the foreign programs that the tests use: all, or the sets named as arguments.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"cloister/tests/clients"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	sets := clients.All()
	if len(os.Args) > 1 {
		sets = nil
		for _, arg := range os.Args[1:] {
			sets = append(sets, clients.Set(arg))
		}
	}
	if err := clients.Build(ctx, os.Stderr, sets...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is deferred beyond stop
	}
}
