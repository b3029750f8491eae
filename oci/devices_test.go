// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestNoDeviceRulesMeanDenied: crun restricts no device of a container whose configuration has no
// rules, so that it could open the disks of others.
func TestNoDeviceRulesMeanDenied(t *testing.T) {
	one := int64(1)
	denied := specs.LinuxDeviceCgroup{Access: "rwm"}
	null := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &one, Minor: &one, Access: "rw"}
	making := specs.LinuxDeviceCgroup{Type: "a", Access: "m"}
	privileged := specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "mrw"}
	for _, tt := range []struct {
		name       string
		have, want []specs.LinuxDeviceCgroup
	}{
		{"none", nil, []specs.LinuxDeviceCgroup{denied}},
		{"one device", []specs.LinuxDeviceCgroup{null}, []specs.LinuxDeviceCgroup{denied, null}},
		{"making alone", []specs.LinuxDeviceCgroup{making}, []specs.LinuxDeviceCgroup{denied, making}},
		{"denied", []specs.LinuxDeviceCgroup{denied, null}, []specs.LinuxDeviceCgroup{denied, null}},
		{"privileged", []specs.LinuxDeviceCgroup{privileged}, []specs.LinuxDeviceCgroup{privileged}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, guestResources(&specs.LinuxResources{Devices: tt.have}, 0).Devices); d != "" {
				t.Errorf("in a guest (-want +got):\n%s", d)
			}
		})
	}
	if d := cmp.Diff([]specs.LinuxDeviceCgroup{denied}, guestResources(nil, 0).Devices); d != "" {
		t.Errorf("without resources, in a guest (-want +got):\n%s", d)
	}
	s := base()
	s.Linux.Resources = nil
	_, _, spec, err := containerOutcome(t, s)
	if err != nil || !strings.Contains(spec, `"devices":[{"allow":false,"access":"rwm"}]`) {
		t.Errorf("without resources, a plain container's configuration is %s, %v", spec, err)
	}
}
