// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseResources(t *testing.T) {
	for _, tt := range []struct {
		name  string
		in    string
		max   int64
		host  Resources
		guest string
		want  []string // fields of the error, of either call
	}{
		{"nothing", `{}`, 0, Resources{}, `{}`, nil},
		{
			"docker update",
			`{"memory":{"limit":67108864,"swap":-1,"reservation":1048576},"cpu":{"shares":512,"quota":50000,"period":100000}}`, 1 << 30,
			Resources{
				MemoryLimit: 64 << 20, MemorySwap: -1, MemoryReservation: 1 << 20, CPUShares: 512,
				CPUQuota: 50000, CPUPeriod: 100000,
			},
			`{"memory":{"limit":67108864,"reservation":1048576},"cpu":{"shares":512,"quota":50000,"period":100000}}`, nil,
		},
		{"cpuset is the host's", `{"cpu":{"cpus":"0,2-3","mems":"0"}}`, 0, Resources{CPUs: "0,2-3", Mems: "0"}, `{"cpu":{}}`, nil},
		{
			"burst", `{"cpu":{"burst":1000},"unified":{"memory.high":"max"}}`, 0,
			Resources{},
			`{"cpu":{},"unified":{"cpu.max.burst":"1000","memory.high":"max"}}`, nil,
		},
		{"no limit", `{"memory":{"limit":-1},"pids":{"limit":-1}}`, 0, Resources{}, `{"memory":{"limit":-1},"pids":{"limit":-1}}`, nil},
		{"no limit is the machine's", `{"memory":{"limit":-1}}`, 1 << 30, Resources{}, `{"memory":{"limit":1073741824}}`, nil},
		{"a zero is no limit", `{"memory":{"limit":0},"cpu":{"quota":-1}}`, 0, Resources{}, `{"cpu":{"quota":-1}}`, nil},
		{"rules stay", `{"devices":[{"allow":false,"access":"rwm"}]}`, 0, Resources{}, `{}`, nil},
		{"beyond the machine", `{"memory":{"limit":2147483648}}`, 1 << 30, Resources{}, "", []string{"resources.memory.limit"}},
		{
			"bad numbers",
			`{"memory":{"limit":-2,"swap":-5,"swappiness":101},"cpu":{"quota":5,"period":5,"cpus":"x","idle":7},"pids":{"limit":-2}}`, 0,
			Resources{},
			"",
			[]string{
				"resources.cpu.cpus", "resources.cpu.idle", "resources.cpu.period", "resources.cpu.quota",
				"resources.memory.limit", "resources.memory.swap", "resources.memory.swappiness", "resources.pids.limit",
			},
		},
		{"swap below limit", `{"memory":{"limit":200000000,"swap":1}}`, 0, Resources{}, "", []string{"resources.memory.swap"}},
		{
			"files of others",
			`{"unified":{"memory.max":"1","cgroup.procs":"1","io.max":"x","a/b":"1","cpuset.cpus":"0","misc.max":"1","x":"y"}}`, 0,
			Resources{},
			"",
			[]string{
				"resources.unified", "resources.unified", "resources.unified", "resources.unified",
				"resources.unified", "resources.unified", "resources.unified",
			},
		},
		{"blkio weight", `{"blockIO":{"weight":5000}}`, 0, Resources{}, "", []string{"resources.blockIO.weight"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := ParseResources([]byte(tt.in), Options{})
			var got []byte
			if err == nil {
				got, err = u.GuestResources(tt.max)
			}
			if d := cmp.Diff(tt.want, fields(err)); d != "" {
				t.Fatalf("%v, fields (-want +got):\n%s", err, d)
			}
			if err != nil {
				return
			}
			if d := cmp.Diff(tt.host, u.Resources); d != "" {
				t.Errorf("host (-want +got):\n%s", d)
			}
			if string(got) != tt.guest {
				t.Errorf("guest %s, want %s", got, tt.guest)
			}
		})
	}
	if _, err := ParseResources([]byte("{"), Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("ParseResources of half a document: %v", err)
	}
}

// TestMemoryCeiling: every container has a limit below the machine's memory.
func TestMemoryCeiling(t *testing.T) {
	for _, tt := range []struct {
		limit         *int64
		ceiling, want int64
	}{
		{nil, 1000, 1000},
		{new(int64(-1)), 1000, 1000},
		{new(int64(0)), 1000, 1000},
		{new(int64(500)), 1000, 500},
		{new(int64(500)), 0, 500},
	} {
		got := guestResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: tt.limit}}, tt.ceiling)
		if *got.Memory.Limit != tt.want {
			t.Errorf("limit %v below %d gives %d, want %d", tt.limit, tt.ceiling, *got.Memory.Limit, tt.want)
		}
	}
	if got := guestResources(nil, 0); got.Memory != nil {
		t.Errorf("memory out of nothing: %+v", got.Memory)
	}
}

// TestLimitBeyondMachine: a container that is made anew with a limit that its machine cannot serve,
// as by a resize of a pod with RestartContainer, is refused and not silently given less.
func TestLimitBeyondMachine(t *testing.T) {
	w, err := parse(t, Options{}, func(s *specs.Spec) {
		member(s)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(160 << 20))}}
	})
	if err != nil {
		t.Fatal(err)
	}
	in := GuestInput{ID: "c", SandboxPid: 4711, MemoryMax: 64 << 20}
	_, err = w.GuestSpec(in)
	if d := cmp.Diff([]string{"linux.resources.memory.limit"}, fields(err)); d != "" {
		t.Errorf("GuestSpec: %v, fields (-want +got):\n%s", err, d)
	}
	in.MemoryMax = 160 << 20
	if _, err := w.GuestSpec(in); err != nil {
		t.Errorf("GuestSpec of a limit that is the machine's: %v", err)
	}
}

func TestHostResources(t *testing.T) {
	own := Resources{CPUShares: 2, CPUs: "0"}
	if got := (&Workload{Role: Single, Resources: own}).HostResources(); got.CPUShares != 2 || got.CPUs != "0" {
		t.Errorf("of a single: %+v", got)
	}
	w := Workload{Role: Sandbox, Resources: own, Pod: PodSize{MemoryBytes: 5, CPUQuota: -1, CPUPeriod: 7, CPUShares: 100}}
	if d := cmp.Diff(Resources{MemoryLimit: 5, CPUShares: 100, CPUPeriod: 7}, w.HostResources()); d != "" {
		t.Errorf("of a pod (-want +got):\n%s", d)
	}
}

func TestParseProcess(t *testing.T) {
	p, err := ParseProcess([]byte(`{"terminal":true,"args":["sh"],"cwd":"/","env":["A=b"],"user":{"uid":1,"gid":2},"selinuxLabel":
		"u:r:t:s0",
		"apparmorProfile":"docker-default",
		"capabilities":{"bounding":["CAP_CHOWN","CAP_NEWER"]},"noNewPrivileges":true}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Terminal || p.Label != "u:r:t:s0" || len(p.Ignored) != 2 {
		t.Errorf("process %+v", p)
	}
	got, err := p.GuestProcess()
	want := `{"terminal":true,"user":{"uid":1,"gid":2},"args":["sh"],"env":["A=b"],"cwd":"/",` +
		`"capabilities":{"bounding":["CAP_CHOWN"]},"noNewPrivileges":true}`
	if err != nil || string(got) != want {
		t.Errorf("guest's process %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{`{`, `{"cwd":"/"}`, `{"args":["a"]}`, `{"args":["a\u0000"],"cwd":"/"}`} {
		if _, err := ParseProcess([]byte(bad), Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseProcess(%s): %v", bad, err)
		}
	}
}

func TestSize(t *testing.T) {
	gib := func(n int64) int64 { return n << 30 }
	for _, tt := range []struct {
		name  string
		in    Workload
		s     Sizing
		mem   int
		cpus  int
		field string // of the error
	}{
		{"defaults", Workload{}, Sizing{}, 608, 1, ""},
		{"own defaults", Workload{}, Sizing{DefaultMemoryMiB: 256, ReserveMiB: 64, DefaultCPUs: 2, MaxCPUs: 4}, 320, 2, ""},
		{"default above what the host has", Workload{}, Sizing{DefaultCPUs: 8, MaxCPUs: 2}, 608, 2, ""},
		{"limit rounds up", Workload{Resources: Resources{MemoryLimit: 70<<20 + 1}}, Sizing{}, 167, 1, ""},
		{"a limit below what a machine needs", Workload{Resources: Resources{MemoryLimit: 6 << 20}}, Sizing{}, 160, 1, ""},
		{"quota rounds up", Workload{Resources: Resources{CPUQuota: 150000, CPUPeriod: 100000}}, Sizing{MaxCPUs: 8}, 608, 2, ""},
		{"quota without period", Workload{Resources: Resources{CPUQuota: 300000}}, Sizing{MaxCPUs: 8}, 608, 3, ""},
		{"quota above the host", Workload{Resources: Resources{CPUQuota: 1 << 62, CPUPeriod: 1000}}, Sizing{MaxCPUs: 2}, 608, 2, ""},
		{"cpuset", Workload{Resources: Resources{CPUs: "0-2,7"}}, Sizing{MaxCPUs: 8}, 608, 4, ""},
		{"quota within cpuset", Workload{Resources: Resources{CPUs: "1", CPUQuota: 400000}}, Sizing{MaxCPUs: 8}, 608, 1, ""},
		{
			"pod",
			Workload{Role: Sandbox, Pod: PodSize{MemoryBytes: gib(1), CPUQuota: 250000, CPUPeriod: 100000}},
			Sizing{MaxCPUs: 8},
			1120, 3, "",
		},
		{"pod before own", Workload{Pod: PodSize{MemoryBytes: gib(1)}, Resources: Resources{MemoryLimit: gib(2)}}, Sizing{}, 1120, 1, ""},
		{
			"annotation before all",
			Workload{Settings: Settings{MemoryMiB: 100, CPUs: 2}, Pod: PodSize{MemoryBytes: gib(1)}},
			Sizing{MaxCPUs: 2},
			196, 2, "",
		},
		{"too little", Workload{Resources: Resources{MemoryLimit: 1 << 20}}, Sizing{}, 0, 0, "linux.resources.memory.limit"},
		{
			"pod with a container without limits",
			Workload{Role: Sandbox, Pod: PodSize{MemoryBytes: gib(1) / 32, CPUQuota: 10000, CPUPeriod: 100000}},
			Sizing{DefaultCPUs: 2, MaxCPUs: 8, PodMemoryOpen: true, PodCPUOpen: true},
			640, 2, "",
		},
		{
			"pod with a container without a limit of memory",
			Workload{Role: Sandbox, Pod: PodSize{MemoryBytes: gib(1), CPUQuota: 10000, CPUPeriod: 100000}},
			Sizing{DefaultCPUs: 2, MaxCPUs: 8, PodMemoryOpen: true},
			1632, 1, "",
		},
		{
			"more than the default is asked for",
			Workload{Role: Sandbox, Pod: PodSize{CPUQuota: 390000, CPUPeriod: 100000}},
			Sizing{DefaultCPUs: 2, MaxCPUs: 8, PodMemoryOpen: true, PodCPUOpen: true},
			608, 4, "",
		},
		{"too much", Workload{Resources: Resources{MemoryLimit: gib(5)}}, Sizing{MaxMemoryMiB: 4096}, 0, 0, "linux.resources.memory.limit"},
		{
			"too much for a pod",
			Workload{Pod: PodSize{MemoryBytes: 1 << 62}},
			Sizing{},
			0, 0,
			"annotations.io.kubernetes.cri.sandbox-memory",
		},
		{"negative pod", Workload{Pod: PodSize{MemoryBytes: -5}}, Sizing{}, 0, 0, "annotations.io.kubernetes.cri.sandbox-memory"},
		{"too many CPUs", Workload{Settings: Settings{CPUs: 9}}, Sizing{MaxCPUs: 8}, 0, 0, "annotations.io.cloister.cpus"},
	} {
		got, err := tt.in.Size(tt.s)
		if tt.field != "" {
			if f := fields(err); len(f) != 1 || f[0] != tt.field {
				t.Errorf("%s: %v, want an error that names %s", tt.name, err, tt.field)
			}
			continue
		}
		if err != nil || got.MemoryMiB != tt.mem || got.CPUs != tt.cpus {
			t.Errorf("%s: Size = %+v, %v, want %d MiB, %d CPUs", tt.name, got, err, tt.mem, tt.cpus)
		}
	}
}

func TestListCount(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "0": 1, "0-3": 4, "0,0-1, 5": 3, "3-1": -1, "a": -1, "-1": -1,
		"0-": -1, "0-99999999999": -1, "1,,2": -1,
	} {
		got, err := listCount(in)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("listCount(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

// TestGuestSpecIsAnAllowList: what is not copied on purpose does not reach the guest,
// whatever the configuration says.
func TestGuestSpecIsAnAllowList(t *testing.T) {
	s := base()
	s.Annotations = map[string]string{"run.oci.handler": "secret"}
	s.Hooks.Poststop = []specs.Hook{{Path: "/secret"}}
	s.Process.SelinuxLabel, s.Linux.MountLabel, s.Linux.CgroupsPath = "secret", "secret", "/secret"
	s.Process.ApparmorProfile, s.Root.Path = "containers-default-secret", "/secret"
	s.Linux.Namespaces[1].Path = "/secret"
	s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/secret"}, {Destination: "/t", Type: "tmpfs", Source: "shm"}}
	w, err := Parse(encode(t, s), Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.GuestSpec(GuestInput{
		ID: "c", Sources: map[int]string{0: "/s"},
		SandboxNamespaces: Namespaces{Network: Namespace{Path: "/secret"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(g, []byte("secret")) {
		t.Errorf("the guest's configuration tells: %s", g)
	}
}

// What an engine gives to every container unasked has no meaning in a guest; what a user has chosen
// is a wish.
func TestAppArmorProfiles(t *testing.T) {
	for name, refused := range map[string]bool{
		"": false, "unconfined": false, "docker-default": false,
		"cri-containerd.apparmor.d": false, "mine": true,
	} {
		s := base()
		s.Process.ApparmorProfile = name
		_, err := Parse(encode(t, s), Options{})
		if f := fields(err); refused != (len(f) == 1 && f[0] == "process.apparmorProfile") || (!refused && err != nil) {
			t.Errorf("profile %q: %v, want refused %v", name, err, refused)
		}
	}
}
