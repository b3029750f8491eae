// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestKernelFS(t *testing.T) {
	for magic, want := range map[int64]string{
		0x9fa0: "/proc", 0x62656572: "/sys", 0x63677270: "cgroup", 0x27e0eb: "cgroup",
		0x64626720: "file system", -109248628 /* selinuxfs, as a signed long of 32 bits */ : "file system",
		0xef53: "", 0x01021994: "", 0x65735546: "", 0x9123683e: "", 0x794c7630: "", // ext4, tmpfs, fuse (lxcfs), btrfs, overlay
	} {
		got := KernelFS("/s", magic)
		if want == "" && got != "" || !strings.Contains(got, want) || want != "" && !strings.Contains(got, "outside of cloister") {
			t.Errorf("KernelFS(%#x) = %q, want %q", magic, got, want)
		}
	}
	const tmpfs = 0x01021994 // what /sys/fs/cgroup is with version 1
	if got := KernelFS("/sys/fs/cgroup", tmpfs); !strings.Contains(got, "the guest's own at /sys/fs/cgroup") {
		t.Errorf("KernelFS of version 1's folder = %q, want it refused", got)
	}
}

// TestCgroupVolumeIsTheGuests: -v /sys/fs/cgroup:/sys/fs/cgroup:ro, as images with systemd ask for,
// is a mount of the guest's own.
func TestCgroupVolumeIsTheGuests(t *testing.T) {
	w, err := parse(t, Options{}, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Type: "bind", Source: "/sys/fs/cgroup/", Destination: "/sys/fs/cgroup", Options: []string{"rbind", "ro", "rprivate"}},
			{Type: "bind", Source: "/sys/fs/cgroup", Destination: "/cg", Options: []string{"rbind"}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Mount{Kind: GuestMount, Type: "cgroup", Destination: "/sys/fs/cgroup", ReadOnly: true, Propagation: "rprivate"}
	if d := cmp.Diff(want, w.Mounts[0]); d != "" {
		t.Errorf("the mount (-want +got):\n%s", d)
	}
	if w.Mounts[1].Kind != BindMount {
		t.Errorf("a bind elsewhere = %+v, want a volume, to be refused by its file system", w.Mounts[1])
	}
	if !slices.ContainsFunc(w.Ignored, func(p Problem) bool { return p.Field == "mounts[0].source" }) {
		t.Errorf("ignored %v, want the source to be reported", w.Ignored)
	}
}
