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

// HostCPU is what is known of a host's ability to run guests natively. It is a value, so that the
// choice can be tested without such a host.
type HostCPU struct {
	// Arch is the host's, as GOARCH spells it.
	Arch string
	// Info is the text of /proc/cpuinfo.
	Info []byte
	// KVM is nil when /dev/kvm opened for reading and writing, else why not.
	KVM error
}

// ChooseAccel resolves a wish into AccelKVM or AccelTCG. A warning, one
// sentence, says why AccelAuto did not give KVM. On x86 an open /dev/kvm proves nothing: some
// hosts offer a paravirtual one that no ordinary kernel boots on, and QEMU then ends with an
// assertion. So AccelKVM demands the CPU's flag as well.
func ChooseAccel(want Accel, host HostCPU) (accel Accel, warning string, err error) {
	switch want {
	case AccelTCG:
		return AccelTCG, "", nil
	case AccelKVM:
		if host.KVM != nil {
			return "", "", fmt.Errorf("accel kvm: %w: load the kvm module and let this user open /dev/kvm, or use accel auto or tcg: %w",
				host.KVM, errdefs.ErrFailedPrecondition)
		}
		if host.paravirtual() {
			return "", "", fmt.Errorf("accel kvm: /dev/kvm opens, but this CPU offers neither vmx nor svm: "+
				"switch virtualization on in the firmware, or nested virtualization in the host of this machine, or use "+
				"accel auto or tcg: %w",
				errdefs.ErrFailedPrecondition)
		}
		return AccelKVM, "", nil
	case AccelAuto, "":
	default:
		return "", "", &FieldError{Field: "Accel", Value: string(want), Remedy: "use auto, kvm or tcg"}
	}
	if host.KVM != nil {
		return AccelTCG, fmt.Sprintf("guests are emulated (tcg) and slow: %v", host.KVM), nil //nolint:nilerr // it is the warning
	}
	if host.paravirtual() {
		return AccelTCG, "guests are emulated (tcg) and slow: /dev/kvm opens, but this CPU offers neither vmx nor svm", nil
	}
	return AccelKVM, "", nil
}

// paravirtual reports whether the KVM that opens is none that an ordinary kernel boots on.
func (h HostCPU) paravirtual() bool { return h.Arch == "amd64" && !cpuHas(h.Info, "vmx", "svm") }

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
