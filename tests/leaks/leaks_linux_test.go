// SPDX-License-Identifier: Apache-2.0

package leaks_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels/mcs"
	"cloister/sys"
	"cloister/tests/host"
	"cloister/tests/leaks"
)

// TestEachKindOfLeakIsFound plants one leak of each kind and wants it, and nothing else, to be
// found.
func TestEachKindOfLeakIsFound(t *testing.T) {
	place := host.New(t)
	parent := filepath.Base(place.Dir)
	cgroups := "/sys/fs/cgroup"
	// Version 1 has a hierarchy for each controller: any one of them will do.
	if _, err := os.Stat(cgroups + "/memory"); err == nil {
		cgroups += "/memory"
	}
	cgroup := filepath.Join(cgroups, parent, "cloister-x")
	where := leaks.Host{Place: place, CgroupParent: parent, Folders: []string{"/run/cloister", "/run/containerd/s", place.Dir}}
	tests := []struct {
		kind       leaks.Kind
		name       string
		plant      func(t *testing.T)
		companions []leaks.Kind // what cannot be without it
	}{
		{leaks.Process, "sleep 1234", func(t *testing.T) { place.Run(t, "sh", "-c", "sleep 1234 >/dev/null 2>&1 &") }, nil},
		{leaks.Mount, "/run/lock ", func(t *testing.T) { place.Run(t, "mount", "-t", "tmpfs", "none", "/run/lock") }, nil},
		{leaks.MountNS, "", func(t *testing.T) {
			place.Run(t, "sh", "-c", "unshare --mount --propagation slave sleep 1235 >/dev/null 2>&1 &")
			place.Run(t, "sh", "-c", "until [ $(readlink /proc/[0-9]*/ns/mnt | sort -u | wc -l) = 2 ]; do sleep 0.1; done")
		}, []leaks.Kind{leaks.Process}},
		{leaks.Link, "tap0 in netns", func(t *testing.T) { place.Run(t, "ip", "tuntap", "add", "tap0", "mode", "tap") }, nil},
		{leaks.NetNS, "", func(t *testing.T) { place.Run(t, "ip", "netns", "add", "x") }, []leaks.Kind{leaks.Link, leaks.Mount}},
		{leaks.Socket, "x.sock", func(t *testing.T) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(place.Dir, "x.sock"), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{leaks.Cgroup, "cloister-x", func(t *testing.T) {
			if err := os.MkdirAll(cgroup, 0o755); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() {
				if err := os.Remove(cgroup); err != nil {
					t.Error(err)
				}
				leaks.RemoveCgroups(t, parent)
			})
		}, nil},
		{leaks.File, "/run/cloister/ns/id/record.json", func(t *testing.T) {
			place.Run(t, "sh", "-c", "mkdir -p /run/cloister/ns/id && touch /run/cloister/ns/id/record.json")
		}, nil},
		{leaks.Reservation, "/mcs/boot/pairs/", func(t *testing.T) {
			registry, err := mcs.Open(mcs.Options{
				Dir: filepath.Join(place.Dir, "cloister/mcs"), Self: sys.Process{Boot: "boot", PID: os.Getpid()},
				Alive: func(sys.Process) (bool, error) { return true, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := registry.Reserve(t.Context(), mcs.Request{Sandbox: "ns/id"}); err != nil {
				t.Fatal(err)
			}
		}, []leaks.Kind{leaks.File}},
	}
	for _, tt := range tests {
		t.Run(string(tt.kind), func(t *testing.T) {
			before := leaks.Look(t, where)
			if diff := cmp.Diff([]string(nil), leaks.Compare(before, leaks.Look(t, where))); diff != "" {
				t.Fatalf("leaks before anything was planted:\n%s", diff)
			}
			tt.plant(t)
			found := false
			for _, line := range leaks.Compare(before, leaks.Look(t, where)) {
				kind, name, _ := strings.Cut(line, " ")
				switch {
				case kind == string(tt.kind):
					found = found || strings.Contains(name, tt.name)
				case !strings.Contains(fmt.Sprint(tt.companions), kind):
					t.Errorf("found %q, which was not planted", line)
				}
			}
			if !found {
				t.Errorf("the planted %s was not found", tt.kind)
			}
		})
	}
}

// TestMountMadeAnewIsNoLeak: a daemon takes a mount away and makes it again, as Docker's does with
// the namespace that it is in. In between, somebody else on the host makes one.
func TestMountMadeAnewIsNoLeak(t *testing.T) {
	place := host.New(t)
	where := leaks.Host{Place: place}
	place.Run(t, "sh", "-c", "mkdir /run/own /run/other && mount -t tmpfs own /run/own")
	before := leaks.Look(t, where)
	place.Run(t, "sh", "-c", "umount /run/own && mount -t tmpfs other /run/other && mount -t tmpfs own /run/own && umount /run/other")
	after := leaks.Look(t, where)
	if diff := cmp.Diff(before[leaks.Mount], after[leaks.Mount]); diff != "" {
		t.Errorf("a mount that was made anew:\n%s", diff)
	}
}
