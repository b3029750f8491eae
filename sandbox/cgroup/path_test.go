// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestLeaf(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "/cloister/cloister-s1"},
		{"/default/c1", "/default/cloister-s1"},
		{"default/c1", "/default/cloister-s1"},
		{"/c1", "/cloister-s1"},
		{"/docker/c0ffee", "/docker/cloister-s1"},
		{"../../../etc/x", "/etc/cloister-s1"},
		{"/kubepods/burstable/pod3f0e/c1", "/kubepods/burstable/pod3f0e/cloister-s1"},
		{"/kubepods/burstable/pod3f0e/s1", "/kubepods/burstable/pod3f0e/s1"},
		{"s1", "/s1"},
		{"/x/s1/..", "/cloister-s1"},
		{"/x/y/../s1/", "/x/s1"},
		{"/x/cloister-s1", "/x/cloister-s1"},
		{"kubepods.slice:cri-containerd:s1", "/kubepods.slice/cloister-s1.scope"}, // the kubelet reads the last part of a scope's name
		{"system.slice:docker:c0ffee", "/system.slice/cloister-s1.scope"},
		{":docker:c0ffee", "/system.slice/cloister-s1.scope"},
		{"-.slice:x:y", "/cloister-s1.scope"},
		{
			"kubepods-burstable-pod3f0e.slice:cri-containerd:c1",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f0e.slice/cloister-s1.scope",
		},
		{"user.slice:a:b/c", "/user.slice/cloister-s1.scope"},
		{"/a:b/c:d:e", "/a:b/cloister-s1"},
		{"a:b:c", ""},
		{"a--b.slice:b:c", ""},
		{"/x\n/y", ""},
		{strings.Repeat("/a", 4000), ""},
	} {
		got, err := Leaf(tt.in, "s1")
		if got != tt.want || (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Leaf(%.60q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
	for _, id := range []string{"", "a/b", "../x", strings.Repeat("a", 300)} {
		if got, err := Leaf("", id); err == nil {
			t.Errorf("Leaf for sandbox %.20q = %q, want an error", id, got)
		}
	}
}

func TestGiven(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		systemd  bool
	}{
		{in: "/docker/c1", want: "/docker/c1"},
		{in: "docker/c1", want: "/docker/c1"},
		{in: "../a/../../b/c1/", want: "/b/c1"},
		{in: "/a:b/c:d:e", want: "/a:b/c:d:e"},
		{in: "kubepods-pod1.slice:cri-containerd:c1", want: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-c1.scope", systemd: true},
		{in: ":docker:c1", want: "/system.slice/docker-c1.scope", systemd: true},
		{in: "-.slice::c1", want: "/c1.scope", systemd: true},
		{in: "a.slice:x:b.slice", want: "/a.slice/x-b.slice", systemd: true},
		{in: ""},
		{in: "/"},
		{in: "a/../.."},
		{in: "/x\n/y"},
		{in: strings.Repeat("/a", 4000)},
		{in: "a:b:c", systemd: true},
		{in: "a.slice:../..:c1", systemd: true},
		{in: "a.slice:b:../c1", systemd: true},
	} {
		got, systemd, err := Given(tt.in)
		if got != tt.want || systemd != tt.systemd || (err != nil) != (tt.want == "") ||
			err != nil && (!errors.Is(err, errdefs.ErrInvalidArgument) || !strings.HasPrefix(err.Error(), "linux.cgroupsPath")) {
			t.Errorf("Given(%.60q) = %q, %t, %v, want %q, %t", tt.in, got, systemd, err, tt.want, tt.systemd)
		}
	}
}

func FuzzLeaf(f *testing.F) {
	f.Add("kubepods-burstable.slice:cri-containerd:c1")
	f.Add("/../..")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Leaf(s, "s1")
		if err == nil && (!path.IsAbs(got) || path.Clean(got) != got || strings.Contains(got, "/../") ||
			!strings.HasPrefix(strings.TrimPrefix(path.Base(got), "cloister-"), "s1")) {
			t.Errorf("Leaf(%q) = %q", s, got)
		}
	})
}
