// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Names that REQUIRE understands, beside the names of programs given to NeedTool.
const (
	Root       = "root"       // the test is run by root
	QEMU       = "qemu"       // qemu-system-x86_64
	Virtiofsd  = "virtiofsd"  // either of the two virtiofsd programs
	Containerd = "containerd" // the distribution's containerd and ctr
	Runc       = "runc"
	Crun       = "crun"
	Busybox    = "busybox" // a static busybox
	Shim       = "shim"    // build/containerd-shim-cloister-v2 and build/cloister
	Guest      = "guest"   // a guest image of ours
	Clients    = "clients" // programs built by tests/clients
	Overlay    = "overlay" // the kernel mounts overlayfs
	Tun        = "tun"     // /dev/net/tun opens
	KVM        = "kvm"     // /dev/kvm opens and the CPU has vmx or svm
	SELinux    = "selinux" // SELinux is enabled
	Enforcing  = "enforcing"
	Landlock   = "landlock"   // the kernel has Landlock
	Cgroups    = "cgroups"    // cgroups can be made
	Namespaces = "namespaces" // namespaces can be made
	Lab        = "lab"        // the throwaway machine with an enforcing kernel
)

// Need skips t when what is absent, or fails it when REQUIRE asks for name. An empty reason means
// present.
func Need(t testing.TB, name, reason string) {
	t.Helper()
	if reason == "" {
		return
	}
	if required(os.Getenv("REQUIRE"), name) {
		t.Fatalf("%s is required here (REQUIRE): %s", name, reason)
	}
	t.Skipf("needs %s: %s", name, reason)
}

func required(list, name string) bool {
	names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(names, "-"+name) {
		return false
	}
	return slices.Contains(names, "all") || slices.Contains(names, name)
}
