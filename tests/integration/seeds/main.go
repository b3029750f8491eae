// SPDX-License-Identifier: Apache-2.0

// Command seeds prints what a program draws for itself: the hash of a word under a seed of Go's
// runtime, or a new TLS key.
package main

import (
	"crypto/ed25519"
	"fmt"
	"hash/maphash"
	"os"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "hash" {
		fmt.Println(maphash.String(maphash.MakeSeed(), "word"))
		return
	}
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "seeds:", err)
		os.Exit(1)
	}
	fmt.Printf("%x\n", key)
}
