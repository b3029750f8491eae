// SPDX-License-Identifier: Apache-2.0

// Command guest is the lab's program in its machine: process 1 that mounts the root and loads the
// policy, the service that does what the host asks, and the small programs that enter a label.
// Which of them it is, its name says.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(filepath.Base(os.Args[0])); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(125)
	}
}

func run(name string) error {
	switch name {
	case "init": // from the initial image
		return boot()
	case "labinit": // from the root, in init's domain
		return watch()
	case "labd":
		return serve()
	case "enter-shim", "enter-runtime":
		return enter()
	default:
		return fmt.Errorf("no program %q", name)
	}
}
