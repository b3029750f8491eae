// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/mcs"
	"cloister/sandbox/statedir"
	"cloister/sys"
)

func level(t *testing.T, text string) labels.Level {
	t.Helper()
	l, err := labels.ParseLevel(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// crowdedHost is an enforcing host with tenants of several engines. The sandbox default/one has pid
// 100.
func crowdedHost(t *testing.T) *site {
	t.Helper()
	files := map[string]string{"sys/fs/selinux/enforce": "1"}
	for _, p := range []struct {
		pid                    int
		command, label, cgroup string
	}{
		{1, "systemd", "system_u:system_r:init_t:s0", "0::/init.scope"},
		{50, "dockerd", "system_u:system_r:container_runtime_t:s0-s0:c0.c1023", "0::/system.slice/docker.service"},
		{100, "qemu-system-x86", "system_u:system_r:cloister_qemu_t:s0:c1,c2", "0::/default/one"},
		{101, "virtiofsd", "system_u:system_r:cloister_virtiofsd_t:s0:c1,c2", "0::/default/one"},
		{200, "nginx", "system_u:system_r:container_t:s0:c3,c4", "0::/system.slice/docker-aaaa.scope"},
		{201, "evil\x1b[2J", "system_u:system_r:container_t:s0:c3,c4", "0::/system.slice/docker-bbbb.scope/init"},
		{300, "qemu-kvm", "system_u:system_r:svirt_t:s0:c5,c6", "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator"},
		{400, "pause", "system_u:system_r:container_t:s0:c7,c8", "0::/kubepods.slice/kubepods-pod1234.slice/cri-containerd-x.scope"},
		{401, "app", "system_u:system_r:container_t:s0:c7,c8", "0::/kubepods.slice/kubepods-pod1234.slice/cri-containerd-y.scope"},
		{500, "odd", "system_u:system_r:container_t:s0:c1", "0::/machine.slice/libpod-cccc.scope"},
	} {
		dir := fmt.Sprintf("proc/%d/", p.pid)
		files[dir+"attr/current"] = p.label + "\x00"
		files[dir+"comm"] = p.command + "\n"
		files[dir+"cgroup"] = p.cgroup + "\n"
	}
	s := fakeSite(t, files)
	s.plant(t, "default", "one", alive(t), func(r *statedir.Record) {
		r.Effects[0].Process.PID, r.Effects[1].Process.PID = 101, 100
	})
	self, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	registry, err := mcs.Open(mcs.Options{Dir: filepath.Join(s.config.Root, "mcs"), Self: self, Alive: sys.Process.Alive})
	if err != nil {
		t.Fatal(err)
	}
	for sandbox, text := range map[string]string{"default/one": "s0:c1,c2", "k8s.io/idle": "s0:c10,c11"} {
		l := level(t, text)
		if _, err := registry.Reserve(context.WithoutCancel(t.Context()), mcs.Request{Sandbox: sandbox, Level: &l}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestLabelsGolden(t *testing.T) {
	s := crowdedHost(t)
	p, err := s.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Problems) > 0 {
		t.Errorf("problems: %q", p.Problems)
	}
	var out bytes.Buffer
	if err := printPicture(stdio{&out, &out}, p); err != nil {
		t.Fatal(err)
	}
	golden(t, "labels.txt", out.String())
	if len(p.Clashes) != 2 {
		t.Errorf("clashes %q, want two: one level held twice, and one that lies within another", p.Clashes)
	}
}

// TestZombieHasItsParentsTenant: no cgroup lists a zombie, which is no other tenant for that. One
// that runs has left its sandbox's cgroup, which is what the list is for.
func TestZombieHasItsParentsTenant(t *testing.T) {
	for state, tenants := range map[string]int{"Z (zombie)": 1, "S (sleeping)": 2} {
		t.Run(state, func(t *testing.T) { child(t, state, tenants) })
	}
}

// child looks at a process that no cgroup lists and whose parent is a sandbox's.
func child(t *testing.T, state string, tenants int) {
	t.Helper()
	files := map[string]string{"sys/fs/selinux/enforce": "1"}
	for pid, parent := range map[int]int{100: 1, 102: 100} {
		dir := fmt.Sprintf("proc/%d/", pid)
		files[dir+"attr/current"] = "system_u:system_r:cloister_container_t:s0:c1,c2\x00"
		files[dir+"comm"], files[dir+"cgroup"] = "sh\n", "0::/default/one\n"
		files[dir+"status"] = fmt.Sprintf("Name:\tsh\nState:\t%s\nPPid:\t%d\n", state, parent)
	}
	s := fakeSite(t, files)
	s.plant(t, "default", "one", alive(t), func(r *statedir.Record) { r.Effects[0].Process.PID = 100 })
	p, err := s.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Levels) != 1 || len(p.Levels[0].Tenants) != tenants || len(p.Levels[0].Processes) != 2 || len(p.Clashes) != tenants-1 {
		t.Errorf("levels = %+v, clashes = %q, want both processes to be of %d tenants", p.Levels, p.Clashes, tenants)
	}
}

func TestLabelsWithoutSELinux(t *testing.T) {
	s := fakeSite(t, map[string]string{"proc/filesystems": "\text4\n"})
	p, err := s.look(t.Context())
	if err != nil || p.Mode != "disabled" || len(p.Levels)+len(p.Clashes) > 0 {
		t.Errorf("look = %+v, %v", p, err)
	}
	if _, err := os.Stat(filepath.Join(s.config.Root, "mcs")); err == nil {
		t.Error("looking made a registry")
	}
}

func TestTenant(t *testing.T) {
	tests := []struct{ in, name, engine string }{
		{"0::/system.slice/docker-aaaa.scope/init\n", "docker-aaaa.scope", "docker"},
		{"12:pids:/docker/aaaa\n0::/\n", "aaaa", "docker"},
		{"0::/kubepods/burstable/pod12-34/abcd\n", "pod12-34", "kubernetes"},
		{
			"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod12.slice/crio-ab.scope\n",
			"kubepods-besteffort-pod12.slice", "cri-o",
		},
		{"0::/machine.slice/libpod-ab.scope/container\n", "libpod-ab.scope", "podman"},
		{"0::/machine.slice/machine-libpod_pod_12.slice/libpod-ab.scope\n", "machine-libpod_pod_12.slice", "podman"},
		{"0::/machine.slice/machine-qemu\\x2d1.scope/libvirt/vcpu0\n", "machine-qemu\\x2d1.scope", "libvirt"},
		{"0::/default/one\n", "one", "?"},
		{"", "", "?"},
	}
	for _, tt := range tests {
		if name, engine := tenant(tt.in); name != tt.name || engine != tt.engine {
			t.Errorf("tenant(%q) = %q, %q, want %q, %q", tt.in, name, engine, tt.name, tt.engine)
		}
	}
}

func TestClashes(t *testing.T) {
	tests := []struct {
		name string
		in   []held
		want int
	}{
		{"apart", []held{{Level: level(t, "s0:c1,c2"), Tenants: []string{"a"}}, {Level: level(t, "s0:c2,c3"), Tenants: []string{"b"}}}, 0},
		{"the same", []held{{Level: level(t, "s0:c1,c2"), Tenants: []string{"a", "b"}}}, 1},
		{"on purpose", []held{{Level: level(t, "s0:c1,c2"), Share: "group", Holders: []string{"a", "b"}, Tenants: []string{"a", "b"}}}, 0},
		{"within", []held{{Level: level(t, "s0:c1,c2"), Tenants: []string{"a"}}, {Level: level(t, "s0:c1"), Tenants: []string{"b"}}}, 1},
		{"another sensitivity", []held{
			{Level: level(t, "s1:c1,c2"), Tenants: []string{"a"}},
			{Level: level(t, "s0:c1,c2"), Tenants: []string{"b"}},
		}, 1},
		{"one tenant, two levels", []held{
			{Level: level(t, "s0:c1,c2"), Tenants: []string{"a"}},
			{Level: level(t, "s0:c1"), Tenants: []string{"a"}},
		}, 0},
	}
	for _, tt := range tests {
		if got := clashes(tt.in); len(got) != tt.want {
			t.Errorf("%s: clashes = %q, want %d", tt.name, got, tt.want)
		}
	}
}

func TestPlain(t *testing.T) {
	if got := plain("qemu kvm"); got != "qemu kvm" {
		t.Errorf("plain = %q", got)
	}
	if got := plain("a\x1bb"); strings.Contains(got, "\x1b") {
		t.Errorf("plain = %q", got)
	}
}
