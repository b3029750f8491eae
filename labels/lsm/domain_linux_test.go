// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/tests/testenv"

	"golang.org/x/sys/unix"
)

// allow gives the rules that a candidate needs.
func (f *far) allow(types labels.Types) {
	for _, domain := range []string{types.QEMU, types.Virtiofsd} {
		f.rules["cloister_shim_t "+domain+" process"] = "transition"
		f.rules[domain+" bin_t file"] = "entrypoint"
	}
}

func TestChooseTypes(t *testing.T) {
	own, kvm, svirt := labels.Own(true), labels.ContainerKVM(), labels.Svirt(true)
	tests := []struct {
		name     string
		change   func(f *far)
		selfTest func(labels.Types) error
		want     string
		says     string
	}{
		{"ours", func(f *far) { f.allow(own); f.allow(svirt) }, nil, "cloister", ""},
		{"container_kvm", func(f *far) { f.allow(kvm); f.allow(svirt) }, nil, "container_kvm", ""},
		{"svirt", func(f *far) { f.allow(svirt) }, nil, "svirt", ""},
		{"none may be entered", func(*far) {}, nil, "", "transition"},
		{"our types are missing", func(f *far) { f.allow(own); f.invalid["cloister_rootfs_t"] = true }, nil, "", "cloister_rootfs_t"},
		{"not an entry point", func(f *far) { f.allow(own); f.rules["cloister_qemu_t bin_t file"] = "" }, nil, "", "restorecon"},
		{
			"virtiofsd may not be entered", func(f *far) { f.allow(own); f.rules["cloister_shim_t cloister_virtiofsd_t process"] = "" },
			nil, "", "cloister_virtiofsd_t",
		},
		{
			"permissive by itself", func(f *far) { f.allow(own); f.permissive["cloister_qemu_t"] = true }, nil,
			"", "semanage permissive -d cloister_qemu_t",
		},
		{"pairs are not constrained", func(f *far) { f.allow(own); f.allow(kvm) }, func(types labels.Types) error {
			if types.Name == "cloister" {
				return errAny
			}
			return nil
		}, "container_kvm", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			test.change(f)
			d := open(t, f)
			d.host.Program = func(string) (labels.Label, error) { return parse(t, "system_u:object_r:bin_t:s0"), nil }
			got, err := d.ChooseTypes(labels.Candidates(true),
				Programs{QEMU: "/usr/bin/qemu", Virtiofsd: "/usr/bin/virtiofsd"}, test.selfTest)
			if test.want == "" {
				if !errors.Is(err, ErrNoDomain) || !strings.Contains(err.Error(), test.says) ||
					!strings.Contains(err.Error(), "cloister policy install") {
					t.Errorf("ChooseTypes = %v, want %v that says %q", err, ErrNoDomain, test.says)
				}
				return
			}
			if err != nil || got.Name != test.want {
				t.Errorf("ChooseTypes = %s, %v, want %s", got.Name, err, test.want)
			}
		})
	}
}

func TestFileLabel(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	target, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	label := parse(t, "system_u:object_r:tmp_t:s0")
	for _, path := range []string{link, target} { // the link first: its label must not land on the file
		fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), path)
		defer func() { _ = f.Close() }()
		if _, err := FileLabel(f); path == target && !errors.Is(err, ErrNoLabel) {
			testenv.Need(t, testenv.Root, "files are labelled here from the start: "+path)
		}
		if err := SetFileLabel(f, label); errors.Is(err, ErrUnsupported) {
			testenv.Need(t, testenv.Root, dir+" takes no labels")
		} else if err != nil {
			t.Fatal(err)
		}
		if got, err := FileLabel(f); err != nil || got != label {
			t.Errorf("FileLabel(%s) = %v, %v, want %v", path, got, err, label)
		}
		if err := SetFileLabel(f, labels.Label{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("SetFileLabel of no label = %v, want %v", err, ErrInvalid)
		}
	}
}
