// SPDX-License-Identifier: Apache-2.0

// Command list prints what is in the cache: size, days since it was last used, name. With -prune it
// removes what was not used for that many days.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"cloister/tests/cache"
	"cloister/tests/testenv"
)

func main() {
	prune := flag.Int("prune", 0, "remove what was not used for this many `days`; 0 removes nothing")
	flag.Parse()
	if err := list(testenv.Cache(), *prune, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "cache:", err)
		os.Exit(1)
	}
}

func list(root string, prune int, now time.Time) error {
	entries, err := cache.Entries(root)
	if err != nil {
		return err
	}
	var total, freed int64
	var failed error
	for _, e := range entries {
		note := ""
		if e.Unfinished {
			note = "  (unfinished)"
		}
		total += e.Bytes
		if prune > 0 && e.Old(now, time.Duration(prune)*24*time.Hour) {
			if err := cache.Remove(root, e); err != nil {
				note += "  not removed"
				failed = errors.Join(failed, err)
			} else {
				note += "  removed"
				freed += e.Bytes
			}
		}
		fmt.Printf("%7d MiB  %5.1f days  %s%s\n", e.Bytes>>20, now.Sub(e.Used).Hours()/24, e.Name, note)
	}
	fmt.Printf("%7d MiB in %d entries of %s", total>>20, len(entries), root)
	if prune > 0 {
		fmt.Printf(", %d MiB removed", freed>>20)
	}
	fmt.Println()
	return failed
}
