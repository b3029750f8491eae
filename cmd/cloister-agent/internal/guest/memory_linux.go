// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	// perCPUFraction bounds the processors' own lists of free pages, which would
	// keep a twentieth of a small guest: to one part in this many.
	perCPUFraction = "/proc/sys/vm/percpu_pagelist_high_fraction"
	fraction       = 512
	// minFree is what the kernel holds back. Huge pages raise it to a twentieth of
	// memory at boot (mm/khugepaged.c); freeReserve is what it is without them
	// (mm/page_alloc.c).
	minFree = "/proc/sys/vm/min_free_kbytes"
)

// freeReserve is int_sqrt(lowmem_kbytes * 16), as calculate_min_free_kbytes has it.
func freeReserve(totalKiB uint64) uint64 { return uint64(math.Sqrt(float64(totalKiB * 16))) }

// KeepFree has the kernel hold back no more than a small guest can spare. What
// boot has left in the processors' lists goes back with it. It is called before each hello, also in
// a template, since the numbers in the hello are what the host takes for the guest's own use.
func KeepFree() error {
	m, err := readKiB("/proc/meminfo", "MemTotal")
	if err != nil {
		return err
	}
	for path, value := range map[string]uint64{perCPUFraction: fraction, minFree: freeReserve(m["MemTotal"])} {
		// A kernel before 5.14 has no perCPUFraction, and no such lists.
		if err := os.WriteFile(path, strconv.AppendUint(nil, value, 10), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := touchPage(); err != nil { // the lists are looked at when they are used
		return err
	}
	// Reading it gathers the processors' counters.
	if _, err := os.ReadFile("/proc/sys/vm/stat_refresh"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// MemUsedKiB is MemTotal - MemAvailable. At the hello no container runs, so it is what the guest
// itself needs; the host notes it in the record.
func MemUsedKiB() (uint64, error) {
	m, err := readKiB("/proc/meminfo", "MemTotal", "MemAvailable")
	if err != nil {
		return 0, err
	}
	return m["MemTotal"] - m["MemAvailable"], nil
}

// touchPage uses a page and gives it back.
func touchPage() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	page[0] = 1
	return unix.Munmap(page)
}

// memoryInfo reads what the host's metrics and tests show: the guest as a whole and the agent's own
// part.
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

// readKiB reads lines of the form "Name:   123 kB". A name that is missing is an error: a wrong
// zero would become a limit.
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
