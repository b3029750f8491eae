// SPDX-License-Identifier: Apache-2.0

package vmm

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// valid is a machine with everything.
func valid() Machine {
	return Machine{
		Name: "default-web.1", Type: Q35, Accel: AccelKVM, CPUs: 2, MemoryMiB: 1024,
		Kernel: "/usr/share/cloister/guest/small/kernel", Initrd: "/usr/share/cloister/guest/small/initrd",
		Cmdline: []string{"console=ttyS0", "quiet", "panic=-1"},
		Balloon: true,
		Share:   &Share{Tag: "cloister"},
		NICs:    []NIC{{ID: "eth0", MAC: "02:00:00:00:00:01", MTU: 1450}},
		Disks:   []Disk{{LUN: 0, Path: "/dev/loop0", ReadOnly: true}, {LUN: 255, Path: "/a, b"}},
	}
}

func TestValidate(t *testing.T) {
	least := Machine{Name: "m", Kernel: "/k"}
	saved := Machine{Name: "m", Kernel: "/k", Type: MicroVM, Origin: ForTemplate}
	loaded := Machine{Name: "m", Kernel: "/k", Type: MicroVM, Origin: FromTemplate, Share: &Share{Tag: "cloister"}}
	private := Machine{Name: "m", Kernel: "/k", Type: MicroVM, Origin: FromTemplate, CopyOnWrite: true}
	longest := valid()
	longest.Name, longest.Share.Tag, longest.NICs[0].ID = strings.Repeat("a", 128), strings.Repeat("a", 36), strings.Repeat("a", 32)
	for _, m := range []Machine{valid(), least, saved, loaded, private, longest} {
		if err := m.Validate(); err != nil {
			t.Errorf("Validate(%+v) = %v, want nil", m, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	nics := func(n int) (nics []NIC) {
		for i := range n {
			nics = append(nics, NIC{ID: "n" + string(rune('a'+i)), MAC: "02:00:00:00:00:" + string("0123456789"[i]) + "1"})
		}
		return nics
	}
	for _, test := range []struct {
		name   string
		change func(*Machine)
		field  string
		says   string
	}{
		{"no name", func(m *Machine) { m.Name = "" }, "Name", `""`},
		{"name with comma", func(m *Machine) { m.Name = "a,b" }, "Name", `"a,b"`},
		{"name with newline", func(m *Machine) { m.Name = "a\n" }, "Name", `"a\n"`},
		{"long name", func(m *Machine) { m.Name = strings.Repeat("a", 129) }, "Name", "128"},
		{"name like an option", func(m *Machine) { m.Name = "-S" }, "Name", "letter or digit"},
		{"unknown board", func(m *Machine) { m.Type = "pc" }, "Type", "q35 or microvm"},
		{"unknown accelerator", func(m *Machine) { m.Accel = "hvf" }, "Accel", "auto, kvm or tcg"},
		{"too many processors", func(m *Machine) { m.CPUs = MaxCPUs + 1 }, "CPUs", "255"},
		{"negative processors", func(m *Machine) { m.CPUs = -1 }, "CPUs", "-1"},
		{"too little memory", func(m *Machine) { m.MemoryMiB = MinMemoryMiB - 1 }, "MemoryMiB", "160"},
		{"too much memory", func(m *Machine) { m.MemoryMiB = MaxMemoryMiB + 1 }, "MemoryMiB", "1048576"},
		{"half a huge page", func(m *Machine) { m.HugePages, m.MemoryMiB = true, 1023 }, "MemoryMiB", "even"},
		{"unknown origin", func(m *Machine) { m.Origin = "disk" }, "Origin", "for-template"},
		{"template of q35", func(m *Machine) { m.Origin, m.Disks = FromTemplate, nil }, "Type", "microvm"},
		{"template with a share", func(m *Machine) { m.Origin, m.Type, m.Disks = ForTemplate, MicroVM, nil }, "Share", "none"},
		{"template with disks", func(m *Machine) { m.Origin, m.Type = FromTemplate, MicroVM }, "Disks", "once the guest runs"},
		{"template of huge pages", func(m *Machine) {
			m.Origin, m.Type, m.Disks, m.HugePages = FromTemplate, MicroVM, nil, true
		}, "HugePages", "leave them out"},
		{"copy-on-write with a share", func(m *Machine) { m.CopyOnWrite = true }, "CopyOnWrite", "vhost-user"},
		{"copy-on-write of no template", func(m *Machine) { m.CopyOnWrite = true }, "CopyOnWrite", "from a template"},
		{"no kernel", func(m *Machine) { m.Kernel = "" }, "Kernel", "absolute"},
		{"relative kernel", func(m *Machine) { m.Kernel = "k" }, "Kernel", `"k"`},
		{"unclean kernel", func(m *Machine) { m.Kernel = "/a/../k" }, "Kernel", "clean"},
		{"zero in kernel", func(m *Machine) { m.Kernel = "/k\x00" }, "Kernel", "clean"},
		{"relative initrd", func(m *Machine) { m.Initrd = "i" }, "Initrd", `"i"`},
		{"blank in parameter", func(m *Machine) { m.Cmdline = []string{"a", "b init=/bin/sh"} }, "Cmdline[1]", "blanks"},
		{"quote in parameter", func(m *Machine) { m.Cmdline = []string{`a="`} }, "Cmdline[0]", "quotes"},
		{"newline in parameter", func(m *Machine) { m.Cmdline = []string{"a\n"} }, "Cmdline[0]", "printable"},
		{"empty parameter", func(m *Machine) { m.Cmdline = []string{""} }, "Cmdline[0]", "at least one"},
		{"long line", func(m *Machine) { m.Cmdline = []string{strings.Repeat("a", 2000)} }, "Cmdline", "2000"},
		{"console too small", func(m *Machine) { m.Console.MaxBytes = 1 }, "Console.MaxBytes", "4096"},
		{"long tag", func(m *Machine) { m.Share = &Share{Tag: strings.Repeat("a", 37)} }, "Share.Tag", "36"},
		{"tag with comma", func(m *Machine) { m.Share = &Share{Tag: "a,b"} }, "Share.Tag", `"a,b"`},
		{"NIC's id", func(m *Machine) { m.NICs[0].ID = "0,script=/x" }, "NICs[0].ID", "letter"},
		{"long id", func(m *Machine) { m.NICs[0].ID = strings.Repeat("a", 33) }, "NICs[0].ID", "32"},
		{"same id", func(m *Machine) { m.NICs = append(m.NICs, NIC{ID: "eth0", MAC: "02:00:00:00:00:02"}) }, "NICs[1].ID", "taken"},
		{"same address", func(m *Machine) { m.NICs = append(m.NICs, NIC{ID: "eth1", MAC: "02:00:00:00:00:01"}) }, "NICs[1].MAC", "taken"},
		{"multicast address", func(m *Machine) { m.NICs[0].MAC = "01:00:00:00:00:01" }, "NICs[0].MAC", "unicast"},
		{"no address", func(m *Machine) { m.NICs[0].MAC = "" }, "NICs[0].MAC", "unicast"},
		{"address of zeros", func(m *Machine) { m.NICs[0].MAC = "00:00:00:00:00:00" }, "NICs[0].MAC", "unicast"},
		{"address in dots", func(m *Machine) { m.NICs[0].MAC = "0200.0000.0001" }, "NICs[0].MAC", "unicast"},
		{"small mtu", func(m *Machine) { m.NICs[0].MTU = 67 }, "NICs[0].MTU", "67"},
		{"negative lun", func(m *Machine) { m.Disks[0].LUN = -1 }, "Disks[0].LUN", "-1"},
		{"large lun", func(m *Machine) { m.Disks[0].LUN = 256 }, "Disks[0].LUN", "255"},
		{"same lun", func(m *Machine) { m.Disks[1].LUN = 0 }, "Disks[1].LUN", "taken"},
		{"disk without path", func(m *Machine) { m.Disks[0].Path = "" }, "Disks[0].Path", "absolute"},
		{"microvm's slots", func(m *Machine) { m.Type = MicroVM; m.NICs = nics(4) }, "NICs", "at most 3 NICs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := valid()
			test.change(&m)
			err := m.Validate()
			var field *FieldError
			if !errors.As(err, &field) || field.Field != test.field || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Validate = %v, want field %s and %s", err, test.field, test.says)
			}
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("Validate = %v, want class %v", err, errdefs.ErrInvalidArgument)
			}
		})
	}
}

func TestValidateTellsAll(t *testing.T) {
	err := Machine{Name: "", Kernel: "k", CPUs: -1}.Validate()
	for _, field := range []string{"Name", "Kernel", "CPUs"} {
		if !strings.Contains(err.Error(), "machine "+field) {
			t.Errorf("Validate = %v, want it to name %s", err, field)
		}
	}
}

func TestChooseAccel(t *testing.T) {
	const vmx, none = "processor\t: 0\nflags\t\t: fpu vmx sse\n", "processor\t: 0\nflags\t\t: fpu sse vmxx\nbugs\t: svm\n"
	absent := errors.New("open /dev/kvm: no such file or directory")
	for _, test := range []struct {
		name, want, arch, info string
		kvm                    error
		accel                  Accel
		warns, fails           bool
	}{
		{"both there", "auto", "amd64", vmx, nil, AccelKVM, false, false},
		{"zero value is auto", "", "amd64", vmx, nil, AccelKVM, false, false},
		{"node without extensions", "auto", "amd64", none, nil, AccelTCG, true, false},
		{"extensions without node", "auto", "amd64", vmx, absent, AccelTCG, true, false},
		{"amd", "auto", "amd64", "flags : svm\n", nil, AccelKVM, false, false},
		{"arm with node", "auto", "arm64", "Features : fp\n", nil, AccelKVM, false, false},
		{"arm without node", "auto", "arm64", "", absent, AccelTCG, true, false},
		{"no cpuinfo", "auto", "amd64", "", nil, AccelTCG, true, false},
		{"tcg by wish", "tcg", "amd64", vmx, nil, AccelTCG, false, false},
		{"kvm by wish", "kvm", "amd64", vmx, nil, AccelKVM, false, false},
		{"kvm by wish, paravirtual", "kvm", "amd64", none, nil, "", false, true},
		{"kvm by wish, absent", "kvm", "amd64", vmx, absent, "", false, true},
		{"unknown", "xen", "amd64", vmx, nil, "", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			accel, warning, err := ChooseAccel(Accel(test.want), HostCPU{Arch: test.arch, Info: []byte(test.info), KVM: test.kvm})
			if accel != test.accel || (warning != "") != test.warns || (err != nil) != test.fails {
				t.Errorf("ChooseAccel(%q) = %q, %q, %v, want %q, warning %v, error %v",
					test.want, accel, warning, err, test.accel, test.warns, test.fails)
			}
		})
	}
}
