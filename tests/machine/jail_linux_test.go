// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// TestJail starts QEMU and virtiofsd and reads back what they have, before a guest's first
// instruction. What the other tests of this package do, they do in that jail.
func TestJail(t *testing.T) { eachBoard(t, testJail) }

func testJail(t *testing.T, board vmm.MachineType) {
	t.Helper()
	_, server := share(t)
	m := describe(t, board)
	m.Share = &vmm.Share{Tag: "cloister"}
	j := withRoot(t, m)
	p, err := qemu.Start(t.Context(), m, qemu.Options{
		Binary: testenv.NeedQEMU(t), Starter: j,
		Dir: t.TempDir(), Share: server.Socket(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	checkRoot(t, p.Pid(), m)
	if err := errors.Join(j.Verify(p.Pid()), server.Jail.Verify(server.Pid())); err != nil {
		t.Error(err)
	}
	// The file server may have what QEMU must not.
	if err := forQEMU(jail.Config{}).Verify(server.Pid()); !errors.Is(err, jail.ErrEscaped) {
		t.Errorf("virtiofsd in QEMU's jail = %v, want %v", err, jail.ErrEscaped)
	}
}

// withRoot is QEMU's jail with the root directory that it has until the guest runs.
func withRoot(t *testing.T, m vmm.Machine) jail.Jail {
	t.Helper()
	program, err := exec.LookPath(testenv.NeedQEMU(t))
	if err != nil {
		t.Fatal(err)
	}
	j := forQEMU(jail.Config{}).SeesOnly(jail.Config{}, hypervisor.RootOf(program, m))
	if j.Root, err = jail.NewRoot(false); err != nil {
		t.Fatal(err)
	}
	if j.PIDs, err = jail.NewPIDs(nil); err != nil {
		t.Fatal(errors.Join(err, j.Root.Close()))
	}
	return j
}

// checkRoot looks at the root directory of a QEMU whose guest has not run: nothing of the host's is
// there but what QEMU opens.
func checkRoot(t *testing.T, pid int, m vmm.Machine) {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, name := range []string{"usr/bin/qemu-system-x86_64", "usr/lib", "dev/null", "dev/urandom", "proc/self"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			t.Errorf("QEMU lacks a file: %v", err)
		}
	}
	top := []string{"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "usr"}
	for _, name := range []string{m.Kernel, m.Initrd} {
		first, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
		top = append(top, first)
	}
	for folder, most := range map[string][]string{
		"":        top,
		"dev":     {"kvm", "null", "urandom"},
		"etc":     {"alternatives", "ld.so.cache", "ld.so.preload", "localtime"},
		"usr":     {"bin", "lib", "lib32", "lib64", "local", "share"},
		"usr/bin": {"qemu-system-x86_64"},
	} {
		entries, err := os.ReadDir(filepath.Join(root, folder))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !slices.Contains(most, e.Name()) {
				t.Errorf("QEMU sees /%s before its guest runs", filepath.Join(folder, e.Name()))
			}
		}
	}
}
