// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
)

// TestRootfsSteps: a root file system comes from the share, or from disks whose LUNs are known only
// when they are plugged.
func TestRootfsSteps(t *testing.T) {
	shared := plan.Container{ID: "c", Rootfs: plan.Rootfs{Host: []plan.Mount{{Type: "overlay"}}}}
	disks := plan.Container{ID: "c", Rootfs: plan.Rootfs{
		Disks: []plan.Disk{{Path: "/layer"}, {Path: "/upper"}},
		Guest: []plan.Step{
			{Type: "erofs", OnDisk: true, Disk: 0, Target: "layers/0", Options: []string{"ro"}},
			{Type: "ext4", OnDisk: true, Disk: 1, Target: "upper"},
			{Type: "bind", Source: "layers/0", Target: "lower"},
			{Type: "overlay", Source: "overlay", Target: "rootfs", Options: []string{"lowerdir=lower"}},
		},
	}}
	tests := []struct {
		name string
		of   plan.Container
		luns []int
		want []*guestv1.MountStep
	}{
		{"shared", shared, nil, []*guestv1.MountStep{{Type: "bind", Source: "share:c/c/rootfs", Target: "rootfs"}}},
		{"disks", disks, []int{3, 1}, []*guestv1.MountStep{
			{Type: "erofs", Source: "lun:3", Target: "layers/0", Options: []string{"ro"}},
			{Type: "ext4", Source: "lun:1", Target: "upper"},
			{Type: "bind", Source: "ctr:layers/0", Target: "lower"},
			{Type: "overlay", Source: "overlay", Target: "rootfs", Options: []string{"lowerdir=lower"}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, rootfsSteps(tt.of, tt.luns), protocmp.Transform()); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSocketStepHasModeAndOwners(t *testing.T) {
	got := socketStep(plan.HostSocket{Token: "secret", Path: "mounts/2", Mode: 0o660, UID: 7, GID: 8})
	want := &guestv1.MountStep{Type: "socket", Source: "token:secret", Target: "mounts/2", Options: []string{"mode=660", "uid=7", "gid=8"}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("step (-want +got):\n%s", diff)
	}
}
