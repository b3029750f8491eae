// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/vmm"
)

func TestMachineSuitsItsKernel(t *testing.T) {
	host := Host{Accel: vmm.AccelTCG, Kernel: "/g/kernel", Initrd: "/g/initrd"}
	small := host
	small.Small = true
	size := oci.Size{MemoryMiB: 608, CPUs: 1}
	for _, test := range []struct {
		name string
		host Host
		wish vmm.MachineType
		want vmm.MachineType
		err  error
	}{
		{"distribution's kernel", host, "", vmm.Q35, nil},
		{"small kernel", small, "", vmm.MicroVM, nil},
		{"small kernel on a wished board", small, vmm.Q35, vmm.Q35, nil},
		{"distribution's kernel where it finds nothing", host, vmm.MicroVM, "", errdefs.ErrFailedPrecondition},
	} {
		m, err := Machine("name", test.host, test.wish, size, nil)
		if !errors.Is(err, test.err) || m.Type != test.want {
			t.Errorf("%s: Machine = %q, %v, want %q, %v", test.name, m.Type, err, test.want, test.err)
		}
	}
}

// What an emulated guest gives up no other guest does.
func TestOnlyEmulatedGuestsGetTheirParameters(t *testing.T) {
	for _, test := range []struct {
		accel vmm.Accel
		cpus  int
		want  []string
	}{
		{vmm.AccelTCG, 1, []string{"norandmaps", "noreplace-smp", "init_on_alloc=1", "nolapic_timer"}},
		{vmm.AccelTCG, 2, []string{"norandmaps", "noreplace-smp", "init_on_alloc=1"}},
		{vmm.AccelKVM, 1, nil},
	} {
		m, err := Machine("name", Host{Accel: test.accel, Kernel: "/g/kernel", Small: true}, "",
			oci.Size{MemoryMiB: 608, CPUs: test.cpus}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, word := range m.Cmdline {
			if strings.HasPrefix(word, "no") && word != "no_timer_check" || strings.HasPrefix(word, "init_on") {
				got = append(got, word)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s, %d processors: %v, want %v", test.accel, test.cpus, got, test.want)
		}
	}
}

func TestNICsHaveUsableAddresses(t *testing.T) {
	nics := NICs(make([][4]byte, 8))
	seen := map[string]bool{}
	for _, n := range nics {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || mac[0]&1 != 0 || mac[0]&2 == 0 || seen[n.MAC] {
			t.Errorf("address %s: %v: want unicast, locally administered, unique", n.MAC, err)
		}
		seen[n.MAC] = true
	}
}
