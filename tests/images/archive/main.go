// SPDX-License-Identifier: Apache-2.0

// Command archive writes the busybox test image to the file named as its argument, for ctr image
// import and docker load.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/images"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: archive FILE")
	}
	program, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	image, err := images.Busybox(ctx, program)
	if err != nil {
		return err
	}
	return images.Save(args[0], map[string]v1.Image{images.BusyboxName: image})
}
