// SPDX-License-Identifier: Apache-2.0

package clone

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm"
	"cloister/vmm/guestimage"
)

// keyOf is the id of the template that a machine may start from.
func keyOf(t *testing.T, h Host, m vmm.Machine) string {
	t.Helper()
	k, err := h.key(m)
	if err != nil {
		t.Fatal(err)
	}
	return k.ID()
}

// image writes a guest image and gives its folder.
func image(t *testing.T, inputs string) string {
	t.Helper()
	dir, sum := t.TempDir(), strings.Repeat("0", 64)
	data, err := json.Marshal(guestimage.Manifest{
		Format: 1, Flavour: guestimage.Small, Arch: "amd64", Inputs: inputs,
		Kernel: guestimage.Kernel{Version: "6", Format: guestimage.Vmlinux, SHA256: sum, Bytes: 1},
		Initrd: guestimage.Initrd{Compression: "none", SHA256: sum, Bytes: 1}, Agent: guestimage.Agent{Version: "1", SHA256: sum},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		guestimage.KernelName: "k", guestimage.InitrdName: "i", guestimage.ManifestName: string(data),
	} {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKeyIsOfWhatTheSavedGuestDependsOn: whatever a saved guest would notice gives another
// template, a rebuilt QEMU of the same version among them. What is drawn for each sandbox does not.
func TestKeyIsOfWhatTheSavedGuestDependsOn(t *testing.T) {
	h := Host{Store: template.NewStore(filepath.Join(t.TempDir(), "templates")), QEMU: filepath.Join(t.TempDir(), "qemu"), MAC: "none"}
	write(t, h.QEMU, "one")
	machine := func(dir, name string, size oci.Size, mac byte) vmm.Machine {
		host := plan.Host{
			Accel: vmm.AccelTCG, Small: true,
			Kernel: filepath.Join(dir, guestimage.KernelName), Initrd: filepath.Join(dir, guestimage.InitrdName),
		}
		m, err := plan.Machine(name, host, "", size, plan.NICs([][4]byte{{mac}, {mac, 1}}))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first, size := image(t, strings.Repeat("a", 64)), oci.Size{MemoryMiB: 608, CPUs: 1}
	m := machine(first, "one", size, 1)
	want := keyOf(t, h, m)
	if got := keyOf(t, h, machine(first, "another", size, 2)); got != want {
		t.Errorf("another name and other addresses: key %s, want %s", got, want)
	}
	other := Host{Store: h.Store, QEMU: filepath.Join(t.TempDir(), "qemu"), MAC: h.MAC}
	write(t, other.QEMU, "two")
	line := m
	line.Cmdline = append([]string{"quiet"}, m.Cmdline...)
	kvm, features, board := m, m, m
	kvm.Accel, features.NestedVirtualization, board.Type = vmm.AccelKVM, true, vmm.Q35
	if _, err := h.key(board); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("key of a q35: %v, want %v: no other board has templates", err, errdefs.ErrInvalidArgument)
	}
	for name, got := range map[string]string{
		"another QEMU":        keyOf(t, other, m),
		"SELinux":             keyOf(t, Host{Store: h.Store, QEMU: h.QEMU, MAC: "selinux"}, m),
		"another guest image": keyOf(t, h, machine(image(t, strings.Repeat("b", 64)), "one", size, 1)),
		"more memory":         keyOf(t, h, machine(first, "one", oci.Size{MemoryMiB: 640, CPUs: 1}, 1)),
		"more CPUs":           keyOf(t, h, machine(first, "one", oci.Size{MemoryMiB: 608, CPUs: 2}, 1)),
		"kernel line":         keyOf(t, h, line),
		"accelerator":         keyOf(t, h, kvm),
		"CPU model":           keyOf(t, h, features),
	} {
		if got == want {
			t.Errorf("%s: the key is the same", name)
		}
	}
}

// TestKeyNamesTheHost: a template is of this host's kernel, CPU and contract with the agent, which
// a test cannot change. TestEachFieldOfAKeyCounts says that they make a difference.
func TestKeyNamesTheHost(t *testing.T) {
	dir := image(t, strings.Repeat("a", 64))
	h := Host{Store: template.NewStore(filepath.Join(t.TempDir(), "templates")), QEMU: filepath.Join(t.TempDir(), "qemu"), MAC: "none"}
	write(t, h.QEMU, "one")
	host := plan.Host{
		Accel: vmm.AccelTCG, Small: true,
		Kernel: filepath.Join(dir, guestimage.KernelName), Initrd: filepath.Join(dir, guestimage.InitrdName),
	}
	m, err := plan.Machine("one", host, "", oci.Size{MemoryMiB: 608, CPUs: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.key(m)
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := template.HostCPU()
	if err != nil {
		t.Fatal(err)
	}
	type named struct {
		kernel, cpu, board, accel string
		protocol                  int
	}
	got := named{key.HostKernel, key.HostCPU, key.Machine, key.Accel, key.Protocol}
	if want := (named{strings.TrimSpace(string(release)), cpu, "microvm", "tcg", guestapi.Protocol}); got != want {
		t.Errorf("the key names %+v, want %+v", got, want)
	}
}
