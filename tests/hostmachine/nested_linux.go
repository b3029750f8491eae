// SPDX-License-Identifier: Apache-2.0

package hostmachine

import (
	"context"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// Args are the arguments of QEMU for an emulated computer with two processors. AMD's processor with
// SVM gives it a /dev/kvm.
func Args(memoryMiB int) []string {
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm", "-smp", "2",
		"-m", strconv.Itoa(memoryMiB),
	}
}

// Parameters are those of its kernel by which machines under its /dev/kvm run reliably.
func Parameters(ctx context.Context) []string {
	return []string{
		// Without the frequency of the host about half of the inner machines hang at their reset
		// vector.
		"tsc=reliable", "tsc_early_khz=" + strconv.Itoa(tscKHz(ctx)),
		// Nested paging as QEMU 7.2 emulates it corrupts machines and inner machines as soon as two
		// of these are busy at once.
		"kvm_amd.npt=0",
	}
}

var tscLine = regexp.MustCompile(`tsc: (?:Detected|Refined TSC clocksource calibration:) ([0-9.]+) MHz`)

// tscKHz is the frequency of the host's time-stamp counter, which a machine under TCG sees too.
func tscKHz(ctx context.Context) int {
	text, _ := exec.CommandContext(ctx, "dmesg").Output()
	if found := tscLine.FindAllSubmatch(text, -1); len(found) > 0 {
		if mhz, err := strconv.ParseFloat(string(found[len(found)-1][1]), 64); err == nil {
			return int(math.Round(mhz * 1000))
		}
	}
	text, _ = os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "cpu MHz" {
			if mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return int(math.Round(mhz * 1000))
			}
		}
	}
	return 2000000
}
