// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/vmm"
)

// TestShareReason: a sandbox has no file server if all files of its only container are on disks or
// copied.
func TestShareReason(t *testing.T) {
	disks := Container{
		Rootfs: Rootfs{Disks: []Disk{{Path: "/layer"}}}, Copies: []Copy{{Path: "files/0"}},
		Sockets: []HostSocket{{}}, Devices: []BlockDevice{{}},
	}
	folder, volume, pause := disks, disks, Container{Pause: true}
	folder.Rootfs = Rootfs{Host: []Mount{{Type: "overlay"}}}
	volume.Volumes = []Volume{{Destination: "/data"}}
	for name, test := range map[string]struct {
		wish FileServer
		role oci.Role
		c    Container
		want string // in the reason; empty: none
	}{
		"disks":                  {Needed, oci.Single, disks, ""},
		"disks, always":          {Always, oci.Single, disks, "machine.file_server"},
		"disks, by default":      {"", oci.Single, disks, "machine.file_server"},
		"a folder as its root":   {Needed, oci.Single, folder, "root file system"},
		"a volume":               {Needed, oci.Single, volume, "/data"},
		"a pod":                  {Needed, oci.Sandbox, pause, "pod"},
		"a template's container": {Needed, oci.Single, Container{}, "root file system"},
	} {
		got := test.wish.ShareReason(&oci.Workload{Role: test.role}, test.c)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: reason %q, want %q in it", name, got, test.want)
		}
	}
	if err := volume.SuitsShare(false); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "machine.file_server") {
		t.Errorf("a volume without a file server: %v, want an error that names the key", err)
	}
	for _, err := range []error{volume.SuitsShare(true), disks.SuitsShare(false), pause.SuitsShare(false)} {
		if err != nil {
			t.Error(err)
		}
	}
	for wish, ok := range map[FileServer]bool{"": true, Needed: true, Always: true, "never": false} {
		if err := wish.Check(); (err == nil) != ok {
			t.Errorf("Check of %q = %v", wish, err)
		}
	}
}

// TestSandboxWithoutShare has neither the device nor its tag, and all other devices.
func TestSandboxWithoutShare(t *testing.T) {
	s, err := NewSandbox(SandboxRequest{
		Namespace: "n", ID: "s", Workload: &oci.Workload{}, NoShare: true,
		Facts: Facts{Host: Host{Kernel: "/k", Small: true, Accel: vmm.AccelTCG}, Sizing: oci.Sizing{}.OnHost(1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Machine.Share != nil || s.Configure.ShareTag != "" || !s.Machine.Balloon {
		t.Errorf("share %v with tag %q, balloon %t", s.Machine.Share, s.Configure.ShareTag, s.Machine.Balloon)
	}
}
