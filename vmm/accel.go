// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// HostCPU is what is known of a host's ability to run guests natively.
type HostCPU struct {
	// Arch is the host's, as GOARCH spells it.
	Arch string
	// Info is the text of /proc/cpuinfo.
	Info []byte
	// KVM is nil when /dev/kvm opened for reading and writing, else why not.
	KVM error
}

// ChooseAccel resolves a wish into AccelKVM or AccelTCG. A warning, one
// sentence, says why AccelAuto did not give KVM. AccelKVM is taken at its word
// once /dev/kvm opens, since a user may know better than /proc/cpuinfo.
func ChooseAccel(want Accel, host HostCPU) (accel Accel, warning string, err error) {
	switch want {
	case AccelTCG:
		return AccelTCG, "", nil
	case AccelKVM:
		if host.KVM != nil {
			return "", "", fmt.Errorf("accel kvm: %w: load the kvm module and let this user open /dev/kvm, or use accel auto or tcg: %w",
				host.KVM, errdefs.ErrFailedPrecondition)
		}
		return AccelKVM, "", nil
	case AccelAuto, "":
	default:
		return "", "", &FieldError{Field: "Accel", Value: string(want), Remedy: "use auto, kvm or tcg"}
	}
	if host.KVM != nil {
		return AccelTCG, fmt.Sprintf("guests are emulated (tcg) and slow: %v", host.KVM), nil //nolint:nilerr // it is the warning
	}
	// On x86 an open /dev/kvm proves nothing: some hosts offer a paravirtual
	// one that no ordinary kernel boots on.
	if host.Arch == "amd64" && !cpuHas(host.Info, "vmx", "svm") {
		return AccelTCG, "guests are emulated (tcg) and slow: /dev/kvm opens, but this CPU offers neither vmx nor svm", nil
	}
	return AccelKVM, "", nil
}

// cpuHas tells whether /proc/cpuinfo's first flags line has one of the flags.
func cpuHas(cpuinfo []byte, flags ...string) bool {
	lines := bufio.NewScanner(bytes.NewReader(cpuinfo))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), ":")
		if !ok || strings.TrimSpace(name) != "flags" {
			continue
		}
		return slices.ContainsFunc(strings.Fields(value), func(f string) bool { return slices.Contains(flags, f) })
	}
	return false
}
