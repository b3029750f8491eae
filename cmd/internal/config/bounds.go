// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"cloister/vmm"
)

// numbers are those of a file as they are written: a zero that somebody has written is
// no default, which is what a zero of sandbox.Config means.
type numbers struct {
	Sizing struct {
		DefaultMemoryMiB *int64 `toml:"default_memory_mib"`
		MaxMemoryMiB     *int64 `toml:"max_memory_mib"`
		ReserveMiB       *int64 `toml:"reserve_mib"`
		DefaultCPUs      *int64 `toml:"default_cpus"`
		MaxCPUs          *int64 `toml:"max_cpus"`
	} `toml:"sizing"`
	Machine struct {
		NICs *int64 `toml:"nics"`
	} `toml:"machine"`
	Timeouts struct {
		Boot *string `toml:"boot"`
	} `toml:"timeouts"`
}

// checkNumbers refuses what no machine can be made of. data is valid otherwise. The decoder of
// sandbox.Config cannot tell a zero from a key that is not there; so the file is decoded a second
// time. All wrong keys are in one error, which is errdefs.ErrInvalidArgument.
func checkNumbers(data []byte) error {
	var n numbers
	if err := toml.NewDecoder(bytes.NewReader(data)).Decode(&n); err != nil {
		return err
	}
	// Below 4 MiB no process starts; a guest's kernel and agent need about 40.
	const leastMiB, leastReserveMiB = 4, 32
	var errs []error
	check := func(key string, n *int64, least, most int64) {
		if n != nil && (*n < least || *n > most) {
			errs = append(errs, fmt.Errorf("%s = %d: want %d to %d, or leave it out for the default", key, *n, least, most))
		}
	}
	check("sizing.default_memory_mib", n.Sizing.DefaultMemoryMiB, leastMiB, vmm.MaxMemoryMiB)
	check("sizing.max_memory_mib", n.Sizing.MaxMemoryMiB, leastMiB, vmm.MaxMemoryMiB)
	check("sizing.reserve_mib", n.Sizing.ReserveMiB, leastReserveMiB, vmm.MaxMemoryMiB)
	check("sizing.default_cpus", n.Sizing.DefaultCPUs, 1, vmm.MaxCPUs)
	check("sizing.max_cpus", n.Sizing.MaxCPUs, 1, vmm.MaxCPUs)
	check("machine.nics", n.Machine.NICs, 1, int64(vmm.Q35.Slots()))
	if b := n.Timeouts.Boot; b != nil {
		if d, err := time.ParseDuration(*b); err == nil && d <= 0 {
			errs = append(errs, fmt.Errorf("timeouts.boot = %q: want a time above zero, as 60s, or leave it out for the default", *b))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", errors.Join(errs...), errdefs.ErrInvalidArgument)
}
