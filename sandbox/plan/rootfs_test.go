// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// The mounts are those that containerd's snapshotters were seen to send.
func TestNewRootfs(t *testing.T) {
	overlay := Mount{
		Type: "overlay", Source: "overlay",
		Options: []string{"index=off", "workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"},
	}
	native := Mount{Type: "bind", Source: "/s/3", Options: []string{"rbind", "rw"}}
	erofs := Mount{Type: "erofs", Source: "/s/1/layer.erofs", Options: []string{"ro", "loop"}}
	for _, test := range []struct {
		name   string
		mounts []Mount
		block  map[string]bool
		want   Rootfs
		err    error
	}{
		{name: "docker", want: Rootfs{}},
		{name: "overlayfs", mounts: []Mount{overlay}, want: Rootfs{Host: []Mount{overlay}}},
		{name: "native", mounts: []Mount{native}, want: Rootfs{Host: []Mount{native}}},
		{
			name: "blockfile",
			mounts: []Mount{{
				Type: "ext4", Source: "/s/4/image",
				Options: []string{"loop", "rw", `context="system_u:object_r:container_file_t:s0:c1,c2"`},
			}},
			want: Rootfs{
				Disks: []Disk{{Path: "/s/4/image"}},
				Guest: []Step{{Type: "ext4", OnDisk: true, Target: "rootfs", Options: []string{"rw"}}},
			},
		},
		{
			name:   "a block device",
			mounts: []Mount{{Type: "ext4", Source: "/dev/dm-1", Options: []string{"ro"}}},
			block:  map[string]bool{"/dev/dm-1": true},
			want: Rootfs{
				Disks: []Disk{{Path: "/dev/dm-1", ReadOnly: true}},
				Guest: []Step{{Type: "ext4", OnDisk: true, Target: "rootfs", Options: []string{"ro"}}},
			},
		},
		{
			name: "erofs with a writable disk",
			mounts: []Mount{
				{
					Type: "mkfs/ext4", Source: "/s/5/rwlayer.img",
					Options: []string{"X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=67108864", "rw", "loop"},
				},
				erofs,
				{Type: "erofs", Source: "/s/2/layer.erofs", Options: []string{"ro", "loop"}},
				{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
					"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
					"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}",
				}},
			},
			want: Rootfs{
				Disks: []Disk{
					{Path: "/s/5/rwlayer.img", MkfsBytes: 64 << 20},
					{Path: "/s/1/layer.erofs", ReadOnly: true},
					{Path: "/s/2/layer.erofs", ReadOnly: true},
				},
				Guest: []Step{
					{Type: "ext4", OnDisk: true, Target: "layers/0", Options: []string{"rw"}},
					{Type: "erofs", OnDisk: true, Disk: 1, Target: "layers/1", Options: []string{"ro"}},
					{Type: "erofs", OnDisk: true, Disk: 2, Target: "layers/2", Options: []string{"ro"}},
					{Type: "mkdir", Target: "layers/0/upper", Options: []string{"mode=0755"}},
					{Type: "mkdir", Target: "layers/0/work", Options: []string{"mode=0755"}},
					{Type: "overlay", Source: "overlay", Target: "rootfs", Options: []string{
						"workdir=layers/0/work", "upperdir=layers/0/upper", "lowerdir=layers/1:layers/2",
					}},
				},
			},
		},
		{
			name:   "a view of one layer",
			mounts: []Mount{erofs, {Type: "format/bind", Source: "{{ mount 0 }}", Options: []string{"ro", "rbind"}}},
			want: Rootfs{
				Disks: []Disk{{Path: "/s/1/layer.erofs", ReadOnly: true}},
				Guest: []Step{
					{Type: "erofs", OnDisk: true, Target: "layers/0", Options: []string{"ro"}},
					{Type: "bind", Source: "layers/0", Target: "rootfs", Options: []string{"ro", "rbind"}},
				},
			},
		},
		{
			name: "a writable host folder over disks",
			mounts: []Mount{erofs, {
				Type: "format/mkdir/overlay", Source: "overlay",
				Options: []string{"upperdir=/s/6/fs", "workdir=/s/6/work", "lowerdir={{ mount 0 }}"},
			}},
			err: errdefs.ErrNotImplemented,
		},
		{
			name: "xfs", mounts: []Mount{{Type: "xfs", Source: "/i", Options: []string{"loop"}}},
			want: Rootfs{Disks: []Disk{{Path: "/i"}}, Guest: []Step{{Type: "xfs", OnDisk: true, Target: "rootfs"}}},
		},
		{
			name: "a file system that the guest has not", mounts: []Mount{{Type: "btrfs", Source: "/i", Options: []string{"loop"}}},
			err: errdefs.ErrNotImplemented,
		},
		{
			name: "several devices", mounts: []Mount{{Type: "erofs", Source: "/i", Options: []string{"loop", "device=/j"}}},
			err: errdefs.ErrNotImplemented,
		},
		{
			name: "mkfs without a size", mounts: []Mount{{Type: "mkfs/ext4", Source: "/i", Options: []string{"loop"}}},
			err: errdefs.ErrInvalidArgument,
		},
		{
			name: "a relative image", mounts: []Mount{{Type: "ext4", Source: "i", Options: []string{"loop"}}},
			err: errdefs.ErrInvalidArgument,
		},
		{
			name: "a template of what is not there", mounts: []Mount{erofs, {Type: "format/bind", Source: "{{ mount 1 }}"}},
			err: errdefs.ErrInvalidArgument,
		},
		{
			name: "a template without an end", mounts: []Mount{erofs, {Type: "format/bind", Source: "{{ mount"}},
			err: errdefs.ErrInvalidArgument,
		},
		{name: "a backward range", mounts: []Mount{
			erofs,
			{Type: "format/overlay", Source: "overlay", Options: []string{"lowerdir={{ overlay 1 0 }}"}},
		}, err: errdefs.ErrInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := NewRootfs(test.mounts, test.block)
			if !errors.Is(err, test.err) {
				t.Fatalf("NewRootfs = %v, want error %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); err == nil && diff != "" {
				t.Errorf("NewRootfs differs (-want +got):\n%s", diff)
			}
		})
	}
}
