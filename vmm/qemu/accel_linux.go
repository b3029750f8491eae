// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"runtime"

	"cloister/vmm"
)

// Host is where the facts about native execution are looked up. The zero value
// is the host itself.
type Host struct {
	// CPUInfo reads /proc/cpuinfo.
	CPUInfo func() ([]byte, error)
	// OpenKVM opens /dev/kvm and closes it again.
	OpenKVM func() error
}

// DetectAccel resolves want for this host; see vmm.ChooseAccel for the rule and
// the warning.
func DetectAccel(want vmm.Accel, h Host) (accel vmm.Accel, warning string, err error) {
	if h.CPUInfo == nil {
		h.CPUInfo = func() ([]byte, error) { return os.ReadFile("/proc/cpuinfo") }
	}
	if h.OpenKVM == nil {
		h.OpenKVM = openKVM
	}
	info, err := h.CPUInfo()
	if err != nil {
		return "", "", fmt.Errorf("accel %s: %w", want, err)
	}
	return vmm.ChooseAccel(want, vmm.HostCPU{Arch: runtime.GOARCH, Info: info, KVM: h.OpenKVM()})
}

// openKVM opens the node as QEMU would: it may be there and not be this user's.
func openKVM() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
