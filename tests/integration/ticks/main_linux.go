// SPDX-License-Identifier: Apache-2.0

// Command ticks writes what the monotonic clock shows into new files of a folder, one every 25 ms
// of that clock for two seconds. The host's clock gives each file its time.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	count = 80
	apart = 25 * time.Millisecond
)

func main() {
	for i := range count {
		var now unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
		if err == nil {
			err = os.WriteFile(filepath.Join(os.Args[1], fmt.Sprintf("%03d", i)), fmt.Append(nil, now.Nano()), 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "ticks:", err)
			os.Exit(1)
		}
		time.Sleep(apart)
	}
}
