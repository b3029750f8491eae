// SPDX-License-Identifier: Apache-2.0

// Command probe is the lab's attacker: it does one thing that a program broken out of a guest would
// try, says how it went, and nothing else. Its name on disk decides nothing; the label of its file
// is the entrance to a domain.
//
//	probe OPERATION ARGUMENT...
//
// It prints one line: the error's name and number, or ok.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// operation is one thing to try.
type operation func(args []string) error

func main() {
	runtime.LockOSThread() // some things are a thread's own
	if len(os.Args) < 2 {
		fmt.Println("usage: probe OPERATION ARGUMENT...")
		os.Exit(2)
	}
	table := operations()
	op, found := table[os.Args[1]]
	if !found {
		names := make([]string, 0, len(table))
		for name := range table {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Printf("no operation %s; there are %s\n", os.Args[1], strings.Join(names, " "))
		os.Exit(2)
	}
	err := op(os.Args[2:])
	if err == nil {
		fmt.Println("ok")
		return
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		fmt.Printf("errno %s %d: %v\n", unix.ErrnoName(errno), int(errno), err)
	} else {
		fmt.Printf("errno none 0: %v\n", err)
	}
	os.Exit(1)
}

// operations is the table of them all.
func operations() map[string]operation {
	all := map[string]operation{}
	for _, some := range []map[string]operation{
		fileOperations(), processOperations(), descriptorOperations(),
		socketOperations(), memoryOperations(), systemOperations(),
		{"hold": hold},
	} {
		maps.Copy(all, some)
	}
	return all
}

// step names what failed.
func step(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}
