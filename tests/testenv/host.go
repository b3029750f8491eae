// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// NeedTool needs the program name on PATH or in one of the sbin folders, and returns its path.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	return NeedFile(t, name, append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin"), name)
}

// NeedFile needs one of names in one of folders, under REQUIRE's name need, and returns the first
// that is found.
func NeedFile(t testing.TB, need string, folders []string, names ...string) string {
	t.Helper()
	for _, folder := range folders {
		for _, name := range names {
			path := filepath.Join(folder, name)
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				return path
			}
		}
	}
	Need(t, need, fmt.Sprintf("no %s in %s", strings.Join(names, " or "), strings.Join(folders, ":")))
	return ""
}

// NeedRoot needs uid 0.
func NeedRoot(t testing.TB) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		Need(t, Root, fmt.Sprintf("runs as uid %d", uid))
	}
}

// NeedQEMU needs QEMU for this machine's architecture and returns its path.
func NeedQEMU(t testing.TB) string {
	t.Helper()
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return NeedFile(t, QEMU, append(filepath.SplitList(os.Getenv("PATH")), "/usr/libexec"), "qemu-system-"+arch, "qemu-kvm")
}

// NeedVirtiofsd needs a virtiofsd and returns its path.
func NeedVirtiofsd(t testing.TB) string {
	t.Helper()
	return NeedFile(t, Virtiofsd, []string{"/usr/libexec", "/usr/lib/qemu", "/usr/lib"}, "virtiofsd")
}

// NeedContainerd needs the distribution's containerd and ctr and returns the folder they are in.
func NeedContainerd(t testing.TB) string {
	t.Helper()
	folders := []string{"/usr/bin", "/usr/local/bin"}
	path := NeedFile(t, Containerd, folders, "containerd")
	NeedFile(t, Containerd, folders, "ctr")
	return filepath.Dir(path)
}

// NeedBusybox needs a busybox that runs without libraries, and returns its path.
func NeedBusybox(t testing.TB) string {
	t.Helper()
	path := NeedTool(t, Busybox)
	out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
	if err != nil {
		Need(t, Busybox, fmt.Sprintf("%s: %v: %s", path, err, out))
	}
	return path
}

// NeedOverlay needs a kernel with overlayfs.
func NeedOverlay(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	systems, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(systems), "\toverlay\n") {
		Need(t, Overlay, "/proc/filesystems has no overlay")
	}
}

// NeedTun needs /dev/net/tun to open.
func NeedTun(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	if reason := opens("/dev/net/tun"); reason != "" {
		Need(t, Tun, reason)
	}
}

// NeedKVM needs a /dev/kvm that opens on a CPU that offers virtualization.
func NeedKVM(t testing.TB) {
	t.Helper()
	if reason := opens("/dev/kvm"); reason != "" {
		Need(t, KVM, reason)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(info)); runtime.GOARCH == "amd64" && !containsAny(fields, "vmx", "svm") {
		Need(t, KVM, "/proc/cpuinfo has neither vmx nor svm")
	}
}

// NeedSELinux needs a kernel with SELinux enabled.
func NeedSELinux(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		Need(t, SELinux, err.Error())
	}
}

// NeedEnforcing needs SELinux to enforce.
func NeedEnforcing(t testing.TB) {
	t.Helper()
	NeedSELinux(t)
	if state, err := os.ReadFile("/sys/fs/selinux/enforce"); err != nil || strings.TrimSpace(string(state)) != "1" {
		Need(t, Enforcing, fmt.Sprintf("/sys/fs/selinux/enforce says %q", state))
	}
}

func opens(path string) string {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	if err := file.Close(); err != nil {
		return err.Error()
	}
	return ""
}

func containsAny(fields []string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(fields, name) })
}
