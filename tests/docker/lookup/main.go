// SPDX-License-Identifier: Apache-2.0

// Command lookup looks up a name COUNT times at once, ROUNDS times, and prints how many failed.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: lookup NAME COUNT ROUNDS")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[2])
	rounds, err2 := strconv.Atoi(os.Args[3])
	if err != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, "lookup: COUNT and ROUNDS are numbers")
		os.Exit(2)
	}
	failures, last := 0, error(nil)
	for range rounds {
		for _, err := range lookUp(os.Args[1], count) {
			failures, last = failures+1, err
		}
	}
	fmt.Printf("%d of %d failed", failures, count*rounds)
	if last != nil {
		fmt.Printf(", the last one: %v", last)
	}
	fmt.Println()
}

// lookUp asks for addresses of both families, as getaddrinfo does.
func lookUp(name string, count int) (errs []error) {
	var mu sync.Mutex
	var all, ready sync.WaitGroup
	ready.Add(count)
	resolver := &net.Resolver{PreferGo: true}
	for range count {
		all.Go(func() {
			ready.Done()
			ready.Wait()
			if _, err := resolver.LookupIP(context.Background(), "ip", name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return errs
}
