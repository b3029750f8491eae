// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// parse changes the good configuration and parses it.
func parse(t *testing.T, opts Options, change func(*specs.Spec)) (*Workload, error) {
	t.Helper()
	s := base()
	change(s)
	return Parse(encode(t, s), opts)
}

// fields are those that an error names, sorted.
func fields(err error) []string {
	unsupported, ok := errors.AsType[*UnsupportedError](err)
	if !ok {
		return nil
	}
	var out []string
	for _, p := range unsupported.Problems {
		out = append(out, p.Field)
	}
	slices.Sort(out)
	return out
}

func member(s *specs.Spec) {
	s.Annotations = map[string]string{annotationContainerType: "container", annotationSandboxID: "pod"}
	s.Linux.Namespaces[1].Path = "/proc/4711/ns/net"
}

func TestParseBounds(t *testing.T) {
	for _, in := range []string{"", "null", "[]", "{", "{}", `{"linux":[]}`, strings.Repeat(" ", MaxBytes+1)} {
		if w, err := Parse([]byte(in), Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) || w != nil {
			t.Errorf("Parse(%.20q) = %v, %v, want ErrInvalidArgument", in, w, err)
		}
	}
}

// TestParseAll: one error names everything.
func TestParseAll(t *testing.T) {
	_, err := parse(t, Options{}, func(s *specs.Spec) {
		s.Root = nil
		s.Process.Cwd = "tmp"
		s.Process.Args = nil
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X", Hard: 1, Soft: 2}}
		s.Process.User.Umask = new(uint32(0o1000))
		s.Process.OOMScoreAdj = new(2000)
		s.Hooks.Poststop = []specs.Hook{{Path: "rel", Timeout: new(0)}}
		s.Linux.MaskedPaths = []string{"rel"}
		s.Linux.RootfsPropagation = "x"
		s.Linux.Seccomp.DefaultAction = "SCMP_ACT_NOTIFY"
		s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
		s.Linux.Seccomp.Syscalls[0].Action = "x"
	})
	want := []string{
		"hooks.poststop[0].path", "hooks.poststop[0].timeout", "linux.maskedPaths", "linux.rootfsPropagation",
		"linux.seccomp.defaultAction", "linux.seccomp.flags", "linux.seccomp.syscalls[0].action", "process.args", "process.cwd",
		"process.oomScoreAdj", "process.rlimits[0].soft", "process.rlimits[0].type", "process.user.umask", "root.path",
	}
	if d := cmp.Diff(want, fields(err)); d != "" {
		t.Errorf("fields (-want +got):\n%s", d)
	}
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("class of %v", err)
	}
}

func TestErrorIsBounded(t *testing.T) {
	_, err := parse(t, Options{}, func(s *specs.Spec) {
		for range 1000 {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: strings.Repeat("ü", 1000)})
		}
	})
	if err == nil || len(err.Error()) > 16<<10 || !strings.Contains(err.Error(), "and 968 more") {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func TestRole(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   map[string]string
		role Role
		id   string
		want []string // fields of the error
	}{
		{"none", nil, Single, "", nil},
		{"sandbox", map[string]string{annotationContainerType: "sandbox", annotationSandboxID: "p"}, Sandbox, "p", nil},
		{"CRI-O", map[string]string{annotationCRIOType: "sandbox", annotationCRIOSandbox: "p"}, Sandbox, "p", nil},
		{
			"member without sandbox",
			map[string]string{annotationContainerType: "container"},
			"", "",
			[]string{"annotations." + annotationSandboxID, "linux.namespaces"},
		},
		{"unknown", map[string]string{annotationContainerType: "x"}, "", "", []string{"annotations." + annotationContainerType}},
		{
			"bad number",
			map[string]string{annotationContainerType: "sandbox", annotationPodMemory: "1G"},
			"",
			"",
			[]string{"annotations." + annotationPodMemory},
		},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) { s.Annotations = tt.in })
		if d := cmp.Diff(tt.want, fields(err)); d != "" {
			t.Errorf("%s: fields (-want +got):\n%s", tt.name, d)
		}
		if err == nil && (w.Role != tt.role || w.SandboxID != tt.id) {
			t.Errorf("%s: role %q of %q, want %q of %q", tt.name, w.Role, w.SandboxID, tt.role, tt.id)
		}
	}
}

func TestSettings(t *testing.T) {
	all := []string{AnnotationMemoryMiB, AnnotationCPUs, AnnotationMachine}
	labels := []string{AnnotationLabelMode, AnnotationLabel, AnnotationImage, AnnotationBase, AnnotationRelabel, AnnotationShare}
	for _, tt := range []struct {
		in   map[string]string
		on   []string
		want Settings
		ok   bool
	}{
		{
			map[string]string{AnnotationMemoryMiB: "256", AnnotationCPUs: "2", AnnotationMachine: "microvm"},
			all,
			Settings{MemoryMiB: 256, CPUs: 2, Machine: "microvm"},
			true,
		},
		{map[string]string{AnnotationMemoryMiB: "256"}, nil, Settings{}, false},
		{map[string]string{AnnotationMemoryMiB: "-1"}, all, Settings{}, false},
		{map[string]string{AnnotationCPUs: "1.5"}, all, Settings{}, false},
		{map[string]string{AnnotationMachine: "pc"}, all, Settings{}, false},
		{map[string]string{"io.cloister.debug": "1"}, []string{"io.cloister.debug"}, Settings{}, false},
		{map[string]string{"io.katacontainers.config": "1"}, nil, Settings{}, true},
		{
			map[string]string{
				AnnotationLabelMode: "static", AnnotationLabel: "u:r:t:s0:c1,c2",
				AnnotationImage: "u:r:i:s0:c1,c2", AnnotationRelabel: "no",
			},
			labels,
			Settings{Labels: LabelSettings{Mode: "static", Label: "u:r:t:s0:c1,c2", Image: "u:r:i:s0:c1,c2", Relabel: "no"}},
			true,
		},
		{
			map[string]string{AnnotationBase: "u:r:t:s0", AnnotationShare: "group"},
			labels,
			Settings{Labels: LabelSettings{Base: "u:r:t:s0", Share: "group"}},
			true,
		},
		{map[string]string{AnnotationLabelMode: "none"}, labels, Settings{}, false},
		{map[string]string{AnnotationRelabel: "maybe"}, labels, Settings{}, false},
		{map[string]string{AnnotationShare: ""}, labels, Settings{}, false},
		{map[string]string{AnnotationShare: "group"}, all, Settings{}, false},
	} {
		w, err := parse(t, Options{Annotations: tt.on}, func(s *specs.Spec) { s.Annotations = tt.in })
		if (err == nil) != tt.ok || err == nil && w.Settings != tt.want {
			t.Errorf("%v: %v, want ok %v", tt.in, err, tt.ok)
		}
	}
}

// TestMountLabels: how each volume is shared, by destination.
func TestMountLabels(t *testing.T) {
	member := map[string]string{annotationContainerType: "container", annotationSandboxID: "pod"}
	for _, tt := range []struct {
		value string
		more  map[string]string
		want  [2]string // of /data: sharing, label
		ok    bool
	}{
		{"/data=shared", nil, [2]string{"shared", ""}, true},
		{
			" /ref=readonly; /data=label system_u:object_r:cloister_rootfs_t:s0:c1,c2", nil,
			[2]string{"label", "system_u:object_r:cloister_rootfs_t:s0:c1,c2"},
			true,
		},
		{"/data/=private", nil, [2]string{"private", ""}, true},
		{"/elsewhere=shared", nil, [2]string{}, false},
		{"/elsewhere=shared;/data=keep", member, [2]string{"keep", ""}, true},
		{"/proc=shared", nil, [2]string{}, false},
		{"/data=label", nil, [2]string{}, false},
		{"/data=shared s0", nil, [2]string{}, false},
		{"/data", nil, [2]string{}, false},
		{"", nil, [2]string{}, false},
	} {
		w, err := parse(t, Options{Annotations: []string{AnnotationMounts}}, func(s *specs.Spec) {
			s.Annotations = maps.Clone(tt.more)
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[AnnotationMounts] = tt.value
			for i, n := range s.Linux.Namespaces {
				if tt.more != nil && n.Type != specs.MountNamespace {
					s.Linux.Namespaces[i].Path = "/proc/1/ns/" + string(n.Type) // a member joins its pod's
				}
			}
			s.Mounts = []specs.Mount{
				{Type: "proc", Source: "proc", Destination: "/proc"},
				{Type: "bind", Source: "/srv/ref", Destination: "/ref"},
				{Type: "bind", Source: "/srv/data", Destination: "/data"},
			}
		})
		if (err == nil) != tt.ok {
			t.Errorf("%q: %v, want ok %t", tt.value, err, tt.ok)
			continue
		}
		if err == nil && [2]string{w.Mounts[2].Sharing, w.Mounts[2].Label} != tt.want {
			t.Errorf("%q: %+v, want %q", tt.value, w.Mounts[2], tt.want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	drop := func(typ string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == typ })
		}
	}
	join := func(i int, path string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Namespaces[i].Path = path }
	}
	with := func(n specs.LinuxNamespace) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, n) }
	}
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		want   []string
	}{
		{"no network", drop("network"), []string{"linux.namespaces"}},
		{"no pid", drop("pid"), []string{"linux.namespaces"}},
		{"no ipc", drop("ipc"), []string{"linux.namespaces"}},
		{"no uts", drop("uts"), []string{"linux.namespaces"}},
		{"no network and so no uts", func(s *specs.Spec) { drop("network")(s); drop("uts")(s) }, []string{"linux.namespaces"}},
		{"no mount", drop("mount"), []string{"linux.namespaces"}},
		{"network path", join(1, "/run/netns/a"), nil},
		{"network of a pid", join(1, "/proc/1/ns/net"), nil},
		{"relative", join(1, "netns/a"), []string{"linux.namespaces[1].path"}},
		{"pid of a single", join(0, "/proc/1/ns/pid"), []string{"linux.namespaces[0].path"}},
		{"pid of the network's container", func(s *specs.Spec) { join(1, "/proc/4711/ns/net")(s); join(0, "/proc/4711/ns/pid")(s) }, nil},
		{"ipc of the network's container", func(s *specs.Spec) { join(1, "/proc/4711/ns/net")(s); join(2, "/proc/4711/ns/ipc")(s) }, nil},
		{
			"pid of another container than the network's",
			func(s *specs.Spec) { join(1, "/proc/4711/ns/net")(s); join(0, "/proc/12/ns/pid")(s) },
			[]string{"linux.namespaces[0].path"},
		},
		{"pid of a kept namespace", join(0, "/run/pid"), []string{"linux.namespaces[0].path"}},
		{"time", with(specs.LinuxNamespace{Type: "time"}), nil},
		{"time path", with(specs.LinuxNamespace{Type: "time", Path: "/proc/1/ns/time"}), []string{"linux.namespaces[5].path"}},
		{"cgroup", with(specs.LinuxNamespace{Type: "cgroup"}), nil},
		{"twice", with(specs.LinuxNamespace{Type: "pid"}), []string{"linux.namespaces[5].type"}},
		{"user without mappings", with(specs.LinuxNamespace{Type: "user"}), []string{"linux.uidMappings"}},
		{"user", userns, nil},
		{
			"user of a process", with(specs.LinuxNamespace{Type: "user", Path: "/proc/1/ns/user"}),
			[]string{"linux.namespaces", "linux.uidMappings"},
		},
		{
			"user of a kept namespace", with(specs.LinuxNamespace{Type: "user", Path: "/run/user"}),
			[]string{"linux.namespaces[5].path", "linux.uidMappings"},
		},
		{"user of the network's container", func(s *specs.Spec) {
			userns(s)
			s.Linux.Namespaces[1].Path, s.Linux.Namespaces[5].Path = "/proc/4711/ns/net", "/proc/4711/ns/user"
		}, nil},
		{"nobody is root", func(s *specs.Spec) { userns(s); s.Linux.UIDMappings[0].ContainerID = 1 }, []string{"linux.uidMappings"}},
		{"mappings overlap", func(s *specs.Spec) { userns(s); s.Linux.UIDMappings[1].HostID = 1009 }, []string{"linux.uidMappings[1]"}},
		{"too many mappings", func(s *specs.Spec) {
			userns(s)
			s.Linux.GIDMappings = slices.Repeat(s.Linux.GIDMappings, maxRanges+1)
		}, []string{"linux.gidMappings"}},
		{
			"mappings without user", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
			[]string{"linux.uidMappings"},
		},
		{"mapping too large", func(s *specs.Spec) { userns(s); s.Linux.UIDMappings[0].Size = 1<<32 - 1 }, []string{"linux.uidMappings[0]"}},
		{"member", member, nil},
		{
			"member with a network of its own", func(s *specs.Spec) { member(s); s.Linux.Namespaces[1].Path = "" },
			[]string{"linux.namespaces"},
		},
		{
			"member joins a kept namespace", func(s *specs.Spec) { member(s); s.Linux.Namespaces[2].Path = "/run/ipc" },
			[]string{"linux.namespaces[2].path"},
		},
	} {
		_, err := parse(t, Options{}, tt.change)
		if d := cmp.Diff(tt.want, fields(err)); d != "" {
			t.Errorf("%s: fields (-want +got):\n%s", tt.name, d)
		}
	}
}

// TestMinusOneIsNoID: setresuid(-1) changes nothing, so that a process with that user would run as
// root.
func TestMinusOneIsNoID(t *testing.T) {
	const last, minusOne = 1<<32 - 2, 1<<32 - 1
	for _, tt := range []struct {
		field  string
		change func(s *specs.Spec, id uint32)
	}{
		{"process.user.uid", func(s *specs.Spec, id uint32) { s.Process.User.UID = id }},
		{"process.user.gid", func(s *specs.Spec, id uint32) { s.Process.User.GID = id }},
		{"process.user.additionalGids[1]", func(s *specs.Spec, id uint32) { s.Process.User.AdditionalGids = []uint32{1, id} }},
		{"linux.devices[0].uid", func(s *specs.Spec, id uint32) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, UID: &id}}
		}},
		{"linux.devices[0].gid", func(s *specs.Spec, id uint32) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, GID: &id}}
		}},
		{"mounts[0].options", func(s *specs.Spec, id uint32) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "tmpfs", Options: []string{fmt.Sprintf("uid=%d", id)}}}
		}},
		{"mounts[0].options", func(s *specs.Spec, id uint32) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "devpts", Options: []string{fmt.Sprintf("gid=%d", id)}}}
		}},
		{"linux.uidMappings[0]", func(s *specs.Spec, id uint32) { userns(s); s.Linux.UIDMappings[0].HostID = id - 9 }},
		{"linux.gidMappings[0]", func(s *specs.Spec, id uint32) {
			userns(s)
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			s.Linux.GIDMappings = append([]specs.LinuxIDMapping{{ContainerID: id, HostID: 5, Size: 1}}, s.Linux.GIDMappings...)
		}},
		{"mounts[0].uidMappings[0]", func(s *specs.Spec, id uint32) {
			one := []specs.LinuxIDMapping{{Size: 1}}
			s.Mounts = []specs.Mount{{
				Destination: "/m", Type: "bind", Source: "/s", GIDMappings: one,
				UIDMappings: []specs.LinuxIDMapping{{ContainerID: id, Size: 1}},
			}}
		}},
	} {
		if _, err := parse(t, Options{}, func(s *specs.Spec) { tt.change(s, last) }); err != nil {
			t.Errorf("%s with the last id: %v", tt.field, err)
		}
		_, err := parse(t, Options{}, func(s *specs.Spec) { tt.change(s, minusOne) })
		if d := cmp.Diff([]string{tt.field}, fields(err)); d != "" {
			t.Errorf("%s with -1: fields (-want +got):\n%s", tt.field, d)
		}
	}
	for _, user := range []specs.User{{UID: minusOne}, {GID: minusOne}, {AdditionalGids: []uint32{minusOne}}} {
		if _, err := ParseProcess(encode(t, specs.Process{Args: []string{"a"}, Cwd: "/", User: user}),
			Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseProcess of %+v: %v, want ErrInvalidArgument", user, err)
		}
	}
	big := specs.Mount{Destination: "/m", Type: "tmpfs", Options: []string{"uid=4294967296", "gid=1k"}}
	if _, err := parse(t, Options{}, func(s *specs.Spec) { s.Mounts = []specs.Mount{big} }); len(fields(err)) != 2 {
		t.Errorf("ids that are none: %v, want both refused", err)
	}
}

// TestCRIOPod: CRI-O names files for the namespaces of a pod, and all its containers the same ones.
func TestCRIOPod(t *testing.T) {
	pod := func(kind, ipc, uts string) (*Workload, error) {
		return parse(t, Options{}, func(s *specs.Spec) {
			s.Annotations = map[string]string{annotationCRIOType: kind, annotationCRIOSandbox: "p"}
			s.Linux.Namespaces[1].Path, s.Linux.Namespaces[2].Path, s.Linux.Namespaces[3].Path = "/run/netns/p", ipc, uts
		})
	}
	first, err := pod("sandbox", "/run/ipcns/p", "/run/utsns/p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pod("sandbox", "/proc/12/ns/ipc", ""); err == nil {
		t.Error("a pod's first container may join a process")
	}
	for _, tt := range []struct {
		name, ipc, uts string
		want           bool
	}{
		{"own", "/run/ipcns/p", "/run/utsns/p", true},
		{"new", "", "", true},
		{"another pod's ipc", "/run/ipcns/q", "/run/utsns/p", false},
		{"another pod's uts", "/run/ipcns/p", "/run/utsns/q", false},
		{"the network's file", "/run/netns/p", "/run/utsns/p", false},
	} {
		w, err := pod("container", tt.ipc, tt.uts)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.GuestSpec(GuestInput{ID: "c", SandboxPid: 4711, SandboxNamespaces: first.Namespaces, PID: "/p", IPC: "/i", UTS: "/u"})
		if (err == nil) != tt.want {
			t.Errorf("%s: %v, want ok %v", tt.name, err, tt.want)
		}
	}
}

func TestProcPid(t *testing.T) {
	for in, want := range map[string]int{
		"/proc/12/ns/net": 12, "/proc/12/task/12/ns/net": 12, "/proc/12/ns/pid": 0, "/proc/0/ns/net": 0, "/proc/self/ns/net": 0,
		"/proc/99999999/ns/net": 0, "/proc/12/ns/net/x": 0, "/run/netns/a": 0, "": 0,
	} {
		if got := procPid(in, specs.NetworkNamespace); got != want {
			t.Errorf("procPid(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestPodNamespaces(t *testing.T) {
	in := GuestInput{
		ID: "c", SandboxPid: 4711, SandboxNamespaces: Namespaces{Network: Namespace{Path: "/run/netns/p"}}, PID: "/p",
		IPC: "/i", UTS: "/u",
	}
	for _, tt := range []struct {
		name string
		net  string
		pid  string
		want bool
	}{
		{"own", "/proc/4711/ns/net", "/proc/4711/ns/pid", true},
		{"own by path", "/run/netns/p", "", true},
		{"another pod's network", "/proc/12/ns/net", "", false},
		{"another pod's network by path", "/run/netns/q", "", false},
		{"another pod's processes", "/proc/4711/ns/net", "/proc/12/ns/pid", false},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) {
			member(s)
			s.Linux.Namespaces[1].Path, s.Linux.Namespaces[0].Path = tt.net, tt.pid
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.GuestSpec(in)
		if (err == nil) != tt.want {
			t.Errorf("%s: %v, want ok %v", tt.name, err, tt.want)
		}
	}
	w, err := parse(t, Options{}, func(s *specs.Spec) { member(s); s.Linux.Namespaces[0].Path = "/proc/4711/ns/pid" })
	if err != nil {
		t.Fatal(err)
	}
	in.PID = ""
	if _, err := w.GuestSpec(in); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("shared pid namespace that the pod does not have: %v", err)
	}
}

func TestMounts(t *testing.T) {
	mount := func(typ, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: "/m", Type: typ, Source: source, Options: options}
	}
	for _, tt := range []struct {
		name string
		in   specs.Mount
		want Mount
		bad  bool
	}{
		{
			"bind", mount("bind", "/s", "rbind", "ro", "nosuid", "rprivate"),
			Mount{
				Kind: BindMount, Source: "/s", Recursive: true, ReadOnly: true, Propagation: "rprivate",
				Options: []string{"nosuid"},
			},
			false,
		},
		{"bind by option", mount("none", "/s", "bind"), Mount{Kind: BindMount, Source: "/s"}, false},
		{"last word counts", mount("bind", "/s", "ro", "rw"), Mount{Kind: BindMount, Source: "/s"}, false},
		{
			"recursively read-only", mount("bind", "/s", "rbind", "rro"),
			Mount{Kind: BindMount, Source: "/s", Recursive: true, ReadOnly: true, RecursiveRO: true},
			false,
		},
		{"shared", mount("bind", "/s", "rshared"), Mount{}, true},
		{"idmapped without a map", mount("bind", "/s", "idmap"), Mount{}, true},
		{"unknown option", mount("bind", "/s", "x=y"), Mount{}, true},
		{"no source", mount("bind", ""), Mount{}, true},
		{
			"tmpfs", mount("tmpfs", "tmpfs", "size=64k", "mode=1777", "uid=5", "nodev", "context=u:r:t:s0"),
			Mount{Kind: GuestMount, Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=1777", "uid=5", "nodev"}},
			false,
		},
		{
			"tmpfs half", mount("tmpfs", "half", "size=50%"),
			Mount{Kind: GuestMount, Type: "tmpfs", Source: "half", Options: []string{"size=50%"}},
			false,
		},
		{
			"tmpfs shared in the guest", mount("tmpfs", "tmpfs", "rshared"),
			Mount{Kind: GuestMount, Type: "tmpfs", Source: "tmpfs", Propagation: "rshared"},
			false,
		},
		{"bad size", mount("tmpfs", "tmpfs", "size=lots"), Mount{}, true},
		{"bad mode", mount("tmpfs", "tmpfs", "mode=999"), Mount{}, true},
		{"two options in one", mount("tmpfs", "tmpfs", "huge=never,uid=0"), Mount{}, true},
		{
			"proc", mount("proc", "proc", "hidepid=2"),
			Mount{Kind: GuestMount, Type: "proc", Source: "proc", Options: []string{"hidepid=2"}},
			false,
		},
		{"cgroup", mount("cgroup", "cgroup", "ro"), Mount{Kind: GuestMount, Type: "cgroup", Source: "cgroup", ReadOnly: true}, false},
		{"overlay", mount("overlay", "overlay", "lowerdir=/"), Mount{}, true},
		{"nfs", mount("nfs", "h:/", "vers=4"), Mount{}, true},
		{"no type", mount("", "/s"), Mount{}, true},
		{"zero byte", mount("bind", "/s\x00"), Mount{}, true},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) { s.Mounts = []specs.Mount{tt.in} })
		if (err != nil) != tt.bad {
			t.Errorf("%s: %v, want an error %v", tt.name, err, tt.bad)
		}
		if err != nil {
			continue
		}
		tt.want.Destination = "/m"
		if d := cmp.Diff(tt.want, w.Mounts[0]); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// TestReadOnlyBelow: Docker's read-only binds take what is mounted below them along, where the
// engine did not say that they are alone or follow the host.
func TestReadOnlyBelow(t *testing.T) {
	for _, tt := range []struct {
		options []string
		want    bool
	}{
		{[]string{"rbind", "ro", "rprivate"}, true},
		{[]string{"rbind", "ro"}, true},
		{[]string{"rbind", "rw", "rprivate"}, false},
		{[]string{"bind", "ro", "rprivate"}, false},
		{[]string{"rbind", "ro", "rslave"}, false},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/s", Options: tt.options}}
		})
		if err != nil {
			t.Fatal(err)
		}
		if w.ReadOnlyBelow(); w.Mounts[0].RecursiveRO != tt.want {
			t.Errorf("%v: read-only below = %v, want %v", tt.options, w.Mounts[0].RecursiveRO, tt.want)
		}
	}
}

// TestProcStaysTheContainers: nothing hides /proc, as with runc, but the files that lxcfs replaces.
func TestProcStaysTheContainers(t *testing.T) {
	for _, tt := range []struct {
		kind, destination string
		ok                bool
	}{
		{"bind", "/proc", false},
		{"bind", "/proc/sys/", false},
		{"bind", "/etc/../proc/1", false},
		{"tmpfs", "/proc/acpi", false},
		{"proc", "/proc", true},
		{"bind", "/proc/cpuinfo", true},
		{"bind", "/proc/net/dev", true},
		{"bind", "/procfs", true},
	} {
		_, err := parse(t, Options{}, func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: tt.destination, Type: tt.kind, Source: "/s"}}
		})
		var want []string
		if !tt.ok {
			want = []string{"mounts[0].destination"}
		}
		if d := cmp.Diff(want, fields(err)); d != "" {
			t.Errorf("%s at %s: fields (-want +got):\n%s", tt.kind, tt.destination, d)
		}
	}
}

func TestMountPlaces(t *testing.T) {
	w, err := parse(t, Options{}, func(s *specs.Spec) {
		member(s)
		for _, d := range []string{
			"/etc/hosts", "/etc/../etc/resolv.conf", "/etc/hostname", "/dev/shm",
			"/dev/termination-log", "../../x",
		} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Type: "bind", Source: "/s"})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []Purpose
	for _, m := range w.Mounts {
		got = append(got, m.Purpose)
	}
	if d := cmp.Diff([]Purpose{HostsFile, ResolvFile, HostnameFile, SharedMemory, TerminationLog, Volume}, got); d != "" {
		t.Errorf("purposes (-want +got):\n%s", d)
	}
	if last := w.Mounts[5].Destination; last != "/x" {
		t.Errorf("destination %q leaves the root", last)
	}
	in := GuestInput{ID: "c", SandboxPid: 4711, Skip: []int{3}, Sources: map[int]string{0: "/0", 1: "/1", 2: "/2", 4: "/4"}}
	if _, err := w.GuestSpec(in); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "/x") {
		t.Errorf("GuestSpec without a source: %v", err)
	}
	in.Sources[5] = "/5"
	data, err := w.GuestSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	var g specs.Spec
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Mounts) != 5 || g.Mounts[3].Source != "/4" {
		t.Errorf("guest's mounts: %+v", g.Mounts)
	}
}

func TestDevices(t *testing.T) {
	allow := func(typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: typ, Major: &major, Minor: &minor, Access: access}
	}
	node := func(path, typ string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: typ, Major: major, Minor: minor}
	}
	disk := node("/dev/xvda", "b", 202, 0)
	for _, tt := range []struct {
		name    string
		opts    Options
		devices []specs.LinuxDevice
		rules   []specs.LinuxDeviceCgroup
		want    []string
	}{
		{"standard", Options{}, []specs.LinuxDevice{node("/dev/null", "c", 1, 3), node("/dev/other", "u", 1, 8)}, nil, nil},
		{"fuse and tun by default", Options{}, []specs.LinuxDevice{
			node("/dev/fuse", "c", 10, 229),
			node("/dev/net/tun", "c", 10, 200),
		}, nil, nil},
		{
			"fuse where there is none",
			Options{GuestDevices: []GuestDevice{}},
			[]specs.LinuxDevice{node("/dev/fuse", "c", 10, 229)},
			nil,
			[]string{"linux.devices"},
		},
		{
			"fuse by its name on another number",
			Options{},
			[]specs.LinuxDevice{node("/dev/fuse", "c", 10, 232)},
			nil,
			[]string{"linux.devices"},
		},
		{
			"kvm",
			Options{},
			[]specs.LinuxDevice{node("/dev/kvm", "c", 10, 232)},
			[]specs.LinuxDeviceCgroup{allow("c", 10, 232, "rw")},
			[]string{"linux.devices", "linux.resources.devices[0]"},
		},
		{"fifo", Options{}, []specs.LinuxDevice{node("/x", "p", 0, 0)}, nil, []string{"linux.devices[0].type"}},
		{"relative", Options{}, []specs.LinuxDevice{node("null", "c", 1, 3)}, nil, []string{"linux.devices[0].path"}},
		{
			"disk",
			Options{},
			[]specs.LinuxDevice{disk},
			[]specs.LinuxDeviceCgroup{allow("b", 202, 0, "rwm")},
			[]string{"linux.devices", "linux.resources.devices[0]"},
		},
		{
			"disk handed over",
			Options{BlockDevices: true},
			[]specs.LinuxDevice{disk},
			[]specs.LinuxDeviceCgroup{allow("b", 202, 0, "rwm")},
			nil,
		},
		{"rule alone", Options{}, nil, []specs.LinuxDeviceCgroup{allow("c", 42, 0, "rwm")}, []string{"linux.resources.devices[0]"}},
		{"rule for making", Options{}, nil, []specs.LinuxDeviceCgroup{allow("c", 42, 0, "m")}, nil},
		{"rule for a major", Options{}, nil, []specs.LinuxDeviceCgroup{allow("b", 8, -1, "rwm")}, []string{"linux.resources.devices[0]"}},
		{"rule for all", Options{}, nil, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, nil},
		{"denials", Options{}, nil, []specs.LinuxDeviceCgroup{{Type: "b", Major: new(int64(8))}}, nil},
		{
			"bad rule",
			Options{},
			nil,
			[]specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "q"}},
			[]string{"linux.resources.devices[0]", "linux.resources.devices[1]"},
		},
		{
			"privileged with disks",
			Options{BlockDevices: true},
			[]specs.LinuxDevice{disk, node("/dev/null", "c", 1, 3)},
			[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a"}},
			[]string{"linux.devices"},
		},
	} {
		_, err := parse(t, tt.opts, func(s *specs.Spec) {
			s.Linux.Devices, s.Linux.Resources.Devices = tt.devices, tt.rules
		})
		if d := cmp.Diff(tt.want, fields(err)); d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, d)
		}
	}
}

func TestPrivilegedSaysWhatToDo(t *testing.T) {
	config, err := os.ReadFile("testdata/ctr-privileged/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(config, Options{}); err == nil || !strings.Contains(err.Error(), "privileged_without_host_devices") {
		t.Errorf("Parse = %v", err)
	}
}

// TestBlockDeviceGetsTheGuestsNumber: a disk gets the guest's number in node and rule, and is
// read-only when no rule lets it be written.
func TestBlockDeviceGetsTheGuestsNumber(t *testing.T) {
	for _, access := range []string{"rm", "rwm"} {
		w, err := parse(t, Options{BlockDevices: true}, func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
				{Path: "/dev/data", Type: "b", Major: 202, Minor: 7},
			}
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
				{Access: "rwm"},
				{Allow: true, Type: "b", Major: new(int64(202)), Minor: new(int64(7)), Access: access},
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		want := Device{Kind: HostBlock, Path: "/dev/data", Number: DeviceNumber{true, 202, 7}, ReadOnly: access == "rm"}
		if d := cmp.Diff(want, w.Devices[1]); d != "" {
			t.Errorf("device (-want +got):\n%s", d)
		}
		if _, err := w.GuestSpec(GuestInput{ID: "c"}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("GuestSpec without a number: %v", err)
		}
		data, err := w.GuestSpec(GuestInput{ID: "c", Devices: map[int]DeviceNumber{1: {true, 8, 16}}})
		if err != nil {
			t.Fatal(err)
		}
		var g specs.Spec
		if err := json.Unmarshal(data, &g); err != nil {
			t.Fatal(err)
		}
		dev, rule := g.Linux.Devices[1], g.Linux.Resources.Devices[1]
		if dev.Major != 8 || dev.Minor != 16 || *rule.Major != 8 || *rule.Minor != 16 || rule.Access != access {
			t.Errorf("guest's device %+v, rule %+v", dev, rule)
		}
	}
}

func TestSysctls(t *testing.T) {
	w, err := parse(t, Options{}, func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1", "kernel.shmmax": "5",
			"vm.max_map_count": "262144", "kernel.domainname": "d",
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Sysctls{
		Network: map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0/1.forwarding": "1"},
		Kernel:  map[string]string{"vm.max_map_count": "262144"},
	}
	if d := cmp.Diff(want, w.Sysctls); d != "" {
		t.Errorf("sysctls (-want +got):\n%s", d)
	}
	for _, network := range []string{"", "/proc/1/ns/net"} {
		data, err := w.GuestSpec(GuestInput{ID: "c", Network: network})
		if err != nil {
			t.Fatal(err)
		}
		var g specs.Spec
		if err := json.Unmarshal(data, &g); err != nil {
			t.Fatal(err)
		}
		wantGuest := map[string]string{"kernel.shmmax": "5"}
		if network != "" {
			maps.Copy(wantGuest, want.Network)
		}
		if d := cmp.Diff(wantGuest, g.Linux.Sysctl); d != "" {
			t.Errorf("guest's sysctls with network %q (-want +got):\n%s", network, d)
		}
	}
	for _, name := range []string{
		"kernel.core_pattern", "kernel.modprobe", "", "/net/x", "net.ipv4..x",
		"net.ipv4/../../x", "vm.x\n", "fs.protected_symlinks",
	} {
		if _, err := parse(t, Options{}, func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{name: "1"} }); err == nil {
			t.Errorf("sysctl %q is not refused", name)
		}
	}
	if _, err := parse(t, Options{},
		func(s *specs.Spec) { member(s); s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} }); err == nil {
		t.Error("a member of a pod may set the guest's sysctl")
	}
}

// TestDomainname: Docker sends --domainname as a sysctl alone; a pod's is the guest's.
func TestDomainname(t *testing.T) {
	domain := func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.domainname": "example.org"} }
	w, err := parse(t, Options{}, domain)
	if err != nil {
		t.Fatal(err)
	}
	data, err := w.GuestSpec(GuestInput{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	var g specs.Spec
	if err := json.Unmarshal(data, &g); err != nil || g.Domainname != "example.org" || len(g.Linux.Sysctl) != 0 {
		t.Errorf("guest's domainname %q, sysctls %v, %v", g.Domainname, g.Linux.Sysctl, err)
	}
	pod := func(s *specs.Spec) {
		s.Annotations = map[string]string{annotationContainerType: "sandbox", annotationSandboxID: "p"}
		s.Domainname = "example.org"
	}
	w, err = parse(t, Options{}, pod)
	if err != nil || w.Sysctls.Kernel["kernel.domainname"] != "example.org" {
		t.Errorf("a pod's domainname: %+v, %v", w, err)
	}
	_, err = parse(t, Options{}, func(s *specs.Spec) { s.Domainname = "example.com"; domain(s) })
	if d := cmp.Diff([]string{"linux.sysctl[kernel.domainname]"}, fields(err)); d != "" {
		t.Errorf("two domain names: fields (-want +got):\n%s", d)
	}
	_, err = parse(t, Options{}, func(s *specs.Spec) {
		member(s)
		for i, n := range s.Linux.Namespaces {
			if n.Type == specs.UTSNamespace {
				s.Linux.Namespaces[i].Path = "/proc/4711/ns/uts"
			}
		}
		domain(s)
	})
	if d := cmp.Diff([]string{"linux.sysctl[kernel.domainname]"}, fields(err)); d != "" {
		t.Errorf("the pod's namespace: fields (-want +got):\n%s", d)
	}
}

// TestHostNames: a uts namespace of the container's own begins with the host's name, as under runc,
// and not with the one that the pod has by then.
func TestHostNames(t *testing.T) {
	const shared = "/proc/4711/ns/uts"
	for _, tt := range []struct{ uts, name, want string }{
		{"", "", "node"},
		{"", "web", "web"},
		{shared, "", ""},
		{shared, "web", ""},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) {
			member(s)
			s.Hostname = tt.name
			for i, n := range s.Linux.Namespaces {
				if n.Type == specs.UTSNamespace {
					s.Linux.Namespaces[i].Path = tt.uts
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		data, err := w.GuestSpec(GuestInput{ID: "c", SandboxPid: 4711, UTS: "/u", Hostname: "node"})
		if err != nil {
			t.Fatal(err)
		}
		var g specs.Spec
		if err := json.Unmarshal(data, &g); err != nil {
			t.Fatal(err)
		}
		if g.Hostname != tt.want {
			t.Errorf("uts %q, hostname %q: %q in the guest, want %q", tt.uts, tt.name, g.Hostname, tt.want)
		}
	}
}

// TestFeatures: every feature that is announced is honoured by Parse.
func TestFeatures(t *testing.T) {
	f := Features()
	for _, option := range f.MountOptions {
		if _, err := parse(t, Options{}, func(s *specs.Spec) {
			if strings.HasSuffix(option, "idmap") { // asks for a map
				userns(s)
			}
			s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/s", Destination: "/d", Options: []string{option}})
		}); err != nil {
			t.Errorf("mount option %s: %v", option, err)
		}
	}
	for _, action := range f.Linux.Seccomp.Actions {
		if _, err := parse(t, Options{}, func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(action)}
		}); err != nil {
			t.Errorf("seccomp action %s: %v", action, err)
		}
	}
	for _, namespace := range f.Linux.Namespaces {
		if _, err := parse(t, Options{}, func(s *specs.Spec) {
			ns := specs.LinuxNamespace{Type: specs.LinuxNamespaceType(namespace)}
			if !slices.Contains(s.Linux.Namespaces, ns) {
				s.Linux.Namespaces = append(s.Linux.Namespaces, ns)
			}
			id := []specs.LinuxIDMapping{{Size: 1}}
			if namespace == string(specs.UserNamespace) {
				s.Linux.UIDMappings, s.Linux.GIDMappings = id, id
			}
		}); err != nil {
			t.Errorf("namespace %s: %v", namespace, err)
		}
	}
	for _, word := range []string{"", "ro rw", "shared"} {
		if slices.Contains(f.MountOptions, word) || contains(bindOptions, word) && word != "ro" {
			t.Errorf("mount option %q is listed", word)
		}
	}
}

func TestOOMScore(t *testing.T) {
	score := 321
	protect := func(s *specs.Spec) { s.Process.OOMScoreAdj = &score }
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		want   int
	}{
		{"none", func(*specs.Spec) {}, 0},
		{"single", protect, score},
		{"pause container", func(s *specs.Spec) {
			protect(s)
			s.Annotations = map[string]string{annotationContainerType: "sandbox", annotationSandboxID: "pod"}
		}, 0},
	} {
		w, err := parse(t, Options{}, tt.change)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.OOMScore(); got != tt.want {
			t.Errorf("%s: OOMScore() = %d, want %d", tt.name, got, tt.want)
		}
	}
}
