// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// MemUsedKiB is MemTotal - MemAvailable.
func MemUsedKiB() (uint64, error) {
	m, err := readKiB("/proc/meminfo", "MemTotal", "MemAvailable")
	if err != nil {
		return 0, err
	}
	return m["MemTotal"] - m["MemAvailable"], nil
}

func memoryInfo() (*guestv1.MemoryInfoResponse, error) {
	m, err := readKiB("/proc/meminfo", "MemTotal", "MemAvailable")
	if err != nil {
		return nil, err
	}
	self, err := readKiB("/proc/self/status", "VmRSS")
	if err != nil {
		return nil, err
	}
	return &guestv1.MemoryInfoResponse{TotalKib: m["MemTotal"], AvailableKib: m["MemAvailable"], AgentRssKib: self["VmRSS"]}, nil
}

// readKiB reads lines of the form "Name:   123 kB".
func readKiB(path string, names ...string) (map[string]uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read memory figures: %w", err)
	}
	defer f.Close()
	values := map[string]uint64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		for _, want := range names {
			if name != want {
				continue
			}
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read %s of %s: %w", name, path, err)
			}
			values[name] = n
		}
	}
	for _, want := range names {
		if _, ok := values[want]; !ok {
			return nil, fmt.Errorf("%s has no %s", path, want)
		}
	}
	return values, nil
}
