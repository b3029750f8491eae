// SPDX-License-Identifier: Apache-2.0

package sandboxapi

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/runtime"
)

func TestNewPod(t *testing.T) {
	config := &runtimeapi.PodSandboxConfig{
		Hostname: "web-0", Annotations: map[string]string{"a": "b"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod1", Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "1"},
			Resources: &runtimeapi.LinuxContainerResources{
				MemoryLimitInBytes: 1 << 30, CpuQuota: 150000,
				CpuPeriod: 100000, CpuShares: 512,
			},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{
					Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE,
					UsernsOptions: &runtimeapi.UserNamespace{
						Mode: runtimeapi.NamespaceMode_POD,
						Uids: []*runtimeapi.IDMapping{{HostId: 1, Length: 2}},
						Gids: []*runtimeapi.IDMapping{{ContainerId: 3, HostId: 4, Length: 5}},
					},
				},
				SelinuxOptions: &runtimeapi.SELinuxOption{Level: "s0:c1,c2"},
			},
		},
	}
	want := runtime.Pod{
		ID: "p", Hostname: "web-0", NetworkPath: "/run/netns/p", HostNetwork: true, HostPID: true,
		IDs:     runtime.IDMap{UIDs: []runtime.IDRange{{Host: 1, Size: 2}}, GIDs: []runtime.IDRange{{Container: 3, Host: 4, Size: 5}}},
		Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "1"}, Annotations: map[string]string{"a": "b"},
		ProcessLabel: "system_u:system_r:container_t:s0:c1,c2", CgroupParent: "/kubepods/pod1",
		Size: runtime.PodSize{MemoryBytes: 1 << 30, CPUQuota: 150000, CPUPeriod: 100000, CPUShares: 512},
	}
	if diff := cmp.Diff(want, newPod("p", "/run/netns/p", config)); diff != "" {
		t.Errorf("newPod (-want +got):\n%s", diff)
	}
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = runtimeapi.NamespaceMode_NODE
	if pod := newPod("p", "", config); !pod.IDs.IsZero() {
		t.Errorf("the host's user namespace: a map of %v", pod.IDs)
	}
	// Of a configuration that says nothing, nothing is the host's.
	if diff := cmp.Diff(runtime.Pod{ID: "p"}, newPod("p", "", &runtimeapi.PodSandboxConfig{})); diff != "" {
		t.Errorf("newPod of nothing (-want +got):\n%s", diff)
	}
}

func TestParseConfig(t *testing.T) {
	encode := func(users *runtimeapi.UserNamespace) []byte {
		config := &runtimeapi.PodSandboxConfig{Hostname: "h"}
		if users != nil {
			config.Linux = &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: users},
				},
			}
		}
		data, err := proto.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data, ids := encode(nil), []*runtimeapi.IDMapping{{HostId: 1, Length: 2}}
	for _, test := range []struct {
		name, url string
		data      []byte
		wantErr   error
	}{
		{name: "as containerd sends it", url: configType, data: data},
		{name: "with a host", url: "type.googleapis.com/" + configType, data: data},
		{name: "nothing", wantErr: errdefs.ErrInvalidArgument},
		{name: "another type", url: "containerd.runc.v1.Options", data: data, wantErr: errdefs.ErrInvalidArgument},
		{name: "users", url: configType, data: encode(&runtimeapi.UserNamespace{Uids: ids, Gids: ids})},
		{name: "the host's users", url: configType, data: encode(&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE})},
		{
			name: "users without groups", url: configType, data: encode(&runtimeapi.UserNamespace{Uids: ids}),
			wantErr: errdefs.ErrInvalidArgument,
		},
		{
			name: "users of a container", url: configType,
			data:    encode(&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER, Uids: ids, Gids: ids}),
			wantErr: errdefs.ErrInvalidArgument,
		},
		{name: "broken", url: configType, data: []byte{0xff}, wantErr: errdefs.ErrInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, err := parseConfig(&anypb.Any{TypeUrl: test.url, Value: test.data})
			if !errors.Is(err, test.wantErr) {
				t.Fatalf("parseConfig = %v, want %v", err, test.wantErr)
			}
			if err == nil && config.GetHostname() != "h" {
				t.Errorf("hostname = %q", config.GetHostname())
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte{0x12, 1, 'h'})
	f.Fuzz(func(_ *testing.T, data []byte) {
		config, err := parseConfig(&anypb.Any{TypeUrl: configType, Value: data})
		if err == nil {
			newPod("p", "", config)
			resolv(config.GetDnsConfig())
		}
	})
}

func TestResolv(t *testing.T) {
	got := string(resolv(&runtimeapi.DNSConfig{
		Servers:  []string{"10.0.0.1", "::1"},
		Searches: []string{"a", "b"}, Options: []string{"ndots:5"},
	}))
	if want := "search a b\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n"; got != want {
		t.Errorf("resolv = %q, want %q", got, want)
	}
	if got := resolv(nil); got != nil {
		t.Errorf("resolv(nil) = %q, want none", got)
	}
}
