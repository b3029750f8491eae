// SPDX-License-Identifier: Apache-2.0

package template

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"strings"
)

// HostCPU describes the host's CPU as far as a guest can tell it from another: model, and a digest
// of features and microcode. A guest that was saved under one CPU and goes on under another may use
// instructions that are not there. Microcode counts because it switches features and mitigations.
func HostCPU() (string, error) {
	data, err := os.ReadFile("/proc/cpuinfo")
	return hostCPU(string(data)), err
}

// hostCPU reads the first CPU of a /proc/cpuinfo.
func hostCPU(cpuinfo string) string {
	// The other CPUs are taken to be alike; frequencies and ids differ between them and are left
	// out.
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	model := "unknown"
	var rest []string
	for line := range strings.Lines(first) {
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch name {
		case "model name":
			model = value
		case "vendor_id", "cpu family", "model", "stepping", "microcode", "flags":
			rest = append(rest, name+"="+value)
		}
	}
	slices.Sort(rest)
	sum := sha256.Sum256([]byte(strings.Join(rest, "\n")))
	return model + " " + hex.EncodeToString(sum[:])[:16]
}
