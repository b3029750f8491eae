// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/vmm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func least(board vmm.MachineType) vmm.Machine {
	return vmm.Machine{Name: "least", Type: board, Accel: vmm.AccelTCG, Kernel: "/guest/kernel"}
}

func full(board vmm.MachineType) vmm.Machine {
	return vmm.Machine{
		Name: "k8s.io-0123456789abcdef", Type: board, Accel: vmm.AccelKVM, CPUs: 4, MemoryMiB: 2304,
		Kernel: "/guest, with comma/kernel", Initrd: "/guest, with comma/initrd",
		Cmdline: []string{"console=ttyS0", "quiet", "panic=-1"},
		Balloon: true, HugePages: true, NestedVirtualization: board == vmm.MicroVM, PerformanceCounters: board == vmm.MicroVM,
		Share: &vmm.Share{Tag: "cloister"},
		NICs: []vmm.NIC{
			{ID: "eth0", MAC: "02:AA:00:00:00:01", MTU: 1450},
			{ID: "spare0", MAC: "02:aa:00:00:00:02", LinkDown: true},
		},
		Disks: []vmm.Disk{{LUN: 0, Path: "/never/opened/by/qemu"}},
	}
}

// template is a machine that has to do with one.
func template(o vmm.Origin) vmm.Machine {
	m := full(vmm.MicroVM)
	m.Origin, m.HugePages, m.Disks = o, false, nil
	if o == vmm.ForTemplate {
		m.Share = nil
	}
	return m
}

// private is a machine whose memory is a template's.
func private() vmm.Machine {
	m := template(vmm.FromTemplate)
	m.Share, m.Balloon, m.CopyOnWrite = nil, false, true
	return m
}

// numbers are descriptors as Start hands them out.
func numbers(m vmm.Machine) FDs {
	w := &wires{}
	o := Options{Taps: make([]*os.File, len(m.NICs))}
	if m.Share != nil {
		o.Share = os.Stdin
	}
	if m.Origin != vmm.FromKernel {
		o.Memory = os.Stdin
	}
	_, fds := w.files(o)
	return fds
}

func TestArgs(t *testing.T) {
	for name, m := range map[string]vmm.Machine{
		"q35-least": least(vmm.Q35), "q35-full": full(vmm.Q35),
		"microvm-least": least(vmm.MicroVM), "microvm-full": full(vmm.MicroVM),
		"for-template": template(vmm.ForTemplate), "from-template": template(vmm.FromTemplate),
		"copy-on-write": private(),
	} {
		t.Run(name, func(t *testing.T) {
			args, err := Args(m, numbers(m))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(args, "\n") + "\n"
			golden := filepath.Join("testdata", name+".args")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("Args(%s) (-%s +got):\n%s", name, golden, diff)
			}
			if slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "/never") }) {
				t.Error("QEMU gets a disk's path")
			}
		})
	}
}

// TestEmulatedMachineKeepsBarriers holds that every emulated machine has room for two CPUs: with
// less QEMU drops the guest's memory barriers, and an interrupt of a virtio device can be lost for
// ever.
func TestEmulatedMachineKeepsBarriers(t *testing.T) {
	for _, test := range []struct {
		accel vmm.Accel
		cpus  int
		want  string
	}{
		{vmm.AccelTCG, 0, "cpus=1,maxcpus=2,sockets=1,cores=2,threads=1"},
		{vmm.AccelTCG, 1, "cpus=1,maxcpus=2,sockets=1,cores=2,threads=1"},
		{vmm.AccelTCG, 2, "cpus=2,sockets=1,cores=2,threads=1"},
		{vmm.AccelKVM, 1, "cpus=1,sockets=1,cores=1,threads=1"},
		{vmm.AccelKVM, 3, "cpus=3,sockets=1,cores=3,threads=1"},
	} {
		m := least(vmm.MicroVM)
		m.Accel, m.CPUs = test.accel, test.cpus
		args, err := Args(m, numbers(m))
		if err != nil {
			t.Fatal(err)
		}
		if got := args[slices.Index(args, "-smp")+1]; got != test.want {
			t.Errorf("-smp of %s with %d CPUs = %q, want %q", test.accel, test.cpus, got, test.want)
		}
	}
}

// TestTemplateKeepsSlots holds that a machine from a template has every device where the template
// had it: QEMU loads the state of each by its place.
func TestTemplateKeepsSlots(t *testing.T) {
	slots := func(o vmm.Origin) map[string]string {
		m := template(o)
		args, err := Args(m, numbers(m))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, arg := range args {
			if device, slot, ok := strings.Cut(arg, ",bus=virtio-mmio-bus."); ok {
				if found[slot] != "" {
					t.Errorf("%s: slot %s has %s and %s", o, slot, found[slot], device)
				}
				found[slot], _, _ = strings.Cut(device, ",")
			}
		}
		return found
	}
	want := slots(vmm.ForTemplate)
	want["0"] = "vhost-user-fs-device"
	if diff := cmp.Diff(want, slots(vmm.FromTemplate)); diff != "" {
		t.Errorf("slots of a machine from a template (-want +got):\n%s", diff)
	}
}

func TestArgsRefuses(t *testing.T) {
	auto := least(vmm.Q35)
	auto.Accel = vmm.AccelAuto
	noName := least(vmm.Q35)
	noName.Name = ""
	for name, m := range map[string]vmm.Machine{"unresolved accelerator": auto, "invalid machine": noName} {
		if args, err := Args(m, numbers(m)); err == nil {
			t.Errorf("Args(%s) = %q, want an error", name, args)
		}
	}
	if args, err := Args(full(vmm.Q35), FDs{}); err == nil {
		t.Errorf("Args without taps = %q, want an error", args)
	}
}

// FuzzArgs checks that no text in a machine can add an argument or a property:
// either it is refused, or everything but its own place stays as it is.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{
		"plain", "a,b", "a,,b", "x,fd=0", "-S", "a b", "a\nb", "\x00", `"`, "=", "on,elevateprivileges=allow",
		"id=x,chardev=qmp", "", "é", "/dev/null",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, board := range []vmm.MachineType{vmm.Q35, vmm.MicroVM} {
			plain := full(board)
			want := shape(t, plain)
			for name, change := range map[string]func(*vmm.Machine){
				"Name":     func(m *vmm.Machine) { m.Name = s },
				"Kernel":   func(m *vmm.Machine) { m.Kernel = "/" + s },
				"Initrd":   func(m *vmm.Machine) { m.Initrd = "/" + s },
				"Cmdline":  func(m *vmm.Machine) { m.Cmdline = []string{"console=ttyS0", s, "panic=-1"} },
				"Tag":      func(m *vmm.Machine) { m.Share = &vmm.Share{Tag: s} },
				"NIC.ID":   func(m *vmm.Machine) { m.NICs[0].ID = s },
				"NIC.MAC":  func(m *vmm.Machine) { m.NICs[0].MAC = s },
				"Disk":     func(m *vmm.Machine) { m.Disks[0].Path = "/" + s },
				"Type":     func(m *vmm.Machine) { m.Type = vmm.MachineType(s) },
				"escaping": func(m *vmm.Machine) { m.Kernel = "/" + strings.Repeat(s, 2) },
			} {
				m := full(board)
				change(&m)
				if m.Validate() != nil || m.Type != board {
					continue
				}
				if diff := cmp.Diff(want, shape(t, m)); diff != "" {
					t.Errorf("%s = %q changes what else QEMU is told (-want +got):\n%s", name, s, diff)
				}
			}
		}
	})
}

// shape is what QEMU's parser makes of the arguments: per option the keys it sees,
// and nothing of values it takes as a whole.
func shape(t *testing.T, m vmm.Machine) []string {
	t.Helper()
	args, err := Args(m, numbers(m))
	if err != nil {
		t.Fatalf("Args of a valid machine: %v", err)
	}
	whole := map[string]bool{"-kernel": true, "-initrd": true, "-append": true, "-serial": true, "-display": true, "-global": true}
	flags := map[string]bool{"-S": true, "-nodefaults": true, "-no-user-config": true, "-no-reboot": true}
	var out []string
	for i := 0; i < len(args); i++ {
		option := args[i]
		switch {
		case flags[option]:
			out = append(out, option)
			continue
		case whole[option]:
			i++
			if option == "-append" && len(strings.Fields(args[i])) != len(m.Cmdline) {
				t.Errorf("%d kernel parameters became %q", len(m.Cmdline), args[i])
			}
			out = append(out, option)
			continue
		}
		i++
		out = append(out, option+" "+strings.Join(keys(args[i]), " "))
	}
	return out
}

// keys splits as QEMU's get_opt_value does: at single commas, two standing for one.
func keys(value string) (keys []string) {
	const comma = "\x01"
	for part := range strings.SplitSeq(strings.ReplaceAll(value, ",,", comma), ",") {
		key, _, _ := strings.Cut(part, "=")
		keys = append(keys, key)
	}
	return keys
}

func TestEscape(t *testing.T) {
	var a arguments
	a.option("-x", "first", kv("path", "a,b,,c"), kv("empty", ""))
	want := arguments{"-x", "first,path=a,,b,,,,c,empty="}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("option (-want +got):\n%s", diff)
	}
}
