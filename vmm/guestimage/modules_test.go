// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	sampleDep = "kernel/drivers/virtio/virtio.ko:\n" +
		"kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n" +
		"kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n" +
		"kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n"
	sampleBuiltin = "kernel/fs/ext4/ext4.ko\n"
)

func TestModuleOrder(t *testing.T) {
	table, err := parseModules([]byte(sampleDep), []byte(sampleBuiltin))
	if err != nil {
		t.Fatal(err)
	}
	got, err := table.order([]string{"virtio_pci", "ext4", "virtio-rng", "unix"}, true, map[string]bool{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"kernel/drivers/virtio/virtio.ko", "kernel/drivers/virtio/virtio_ring.ko",
		"kernel/drivers/virtio/virtio_pci.ko.xz", "kernel/drivers/char/hw_random/virtio-rng.ko",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order: -want +got\n%s", diff)
	}
	if _, err := table.order([]string{"absent"}, true, map[string]bool{}); !errors.Is(err, ErrModule) {
		t.Errorf("order(absent, all) = %v, want ErrModule", err)
	}
	if got, err := table.order([]string{"absent"}, false, map[string]bool{}); err != nil || len(got) != 0 {
		t.Errorf("order(absent) = %v, %v, want nothing", got, err)
	}
	if table, err = parseModules([]byte("kernel/net/unix/unix.ko:\n"), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := table.order([]string{"unix"}, true, map[string]bool{}); err != nil || len(got) != 1 {
		t.Errorf("order(unix) of a kernel that has it as a module = %v, %v", got, err)
	}
}

// TestAskedModules: each late module has the names that the kernel asks by, and what must be loaded
// before it.
func TestAskedModules(t *testing.T) {
	const dep = "net/a.ko.xz:\nnet/b-c.ko: net/a.ko.xz boot.ko\nd.ko: net/b-c.ko net/a.ko.xz boot.ko\nboot.ko:\n"
	table, err := parseModules([]byte(dep), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{"boot.ko": true}
	late, err := table.order([]string{"d", "a"}, false, done)
	if err != nil {
		t.Fatal(err)
	}
	aliases := parseAliases([]byte("# comment\nalias net-pf-16-proto-12 a\nalias char-major-10-* b_c\n" +
		"alias two|bars d\nalias fs-d d\nalias x\n"))
	got := table.asked(late, aliases, parseSoft([]byte("softdep b_c post: d pre: a absent\nsoftdep a post: d\n")))
	want := []lateModule{
		{File: "a.ko", Names: []string{"net-pf-16-proto-12"}},
		{File: "b_c.ko", Needs: []string{"a"}, Names: []string{"char-major-10-*"}},
		{File: "d.ko", Needs: []string{"a", "b_c"}, Names: []string{"fs-d"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("asked: -want +got\n%s", diff)
	}
}

func TestParseModulesRefuses(t *testing.T) {
	for _, dep := range []string{"no colon\n", "../up.ko:\n", "/abs.ko:\n"} {
		if _, err := parseModules([]byte(dep), nil); err == nil {
			t.Errorf("parseModules(%q) gave no error", dep)
		}
	}
	table, err := parseModules([]byte("a.ko: ../../b.ko\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.order([]string{"a"}, true, map[string]bool{}); err == nil {
		t.Error("order with a need outside gave no error")
	}
}

func FuzzParseModules(f *testing.F) {
	f.Add([]byte(sampleDep), []byte(sampleBuiltin))
	f.Fuzz(func(t *testing.T, dep, builtin []byte) {
		table, err := parseModules(dep, builtin)
		if err != nil {
			return
		}
		for name := range table.file {
			paths, err := table.order([]string{name}, false, map[string]bool{})
			if err != nil {
				continue
			}
			for _, p := range paths {
				if !localPath(p) {
					t.Errorf("order(%q) gives %q", name, p)
				}
			}
		}
	})
}
