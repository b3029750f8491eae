// SPDX-License-Identifier: Apache-2.0

package sandboxapi

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/runtime"
)

// configType is how containerd's CRI calls a PodSandboxConfig.
const configType = "runtime.v1.PodSandboxConfig"

// parseConfig reads what CRI says of a pod. Without it nothing is known of the
// pod, which is an error: hostNetwork could have been asked for.
func parseConfig(options *anypb.Any) (*runtimeapi.PodSandboxConfig, error) {
	if name := options.GetTypeUrl(); name[strings.LastIndexByte(name, '/')+1:] != configType {
		return nil, fmt.Errorf("options of type %q: want %s: %w", name, configType, errdefs.ErrInvalidArgument)
	}
	config := &runtimeapi.PodSandboxConfig{}
	if err := proto.Unmarshal(options.GetValue(), config); err != nil {
		return nil, fmt.Errorf("options: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return config, checkUsers(config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions())
}

// checkUsers refuses what is neither no user namespace (NODE) nor one of the pod's own. A pod must
// not run without the user namespace that it asked for.
func checkUsers(users *runtimeapi.UserNamespace) error {
	const field = "linux.security_context.namespace_options.userns_options"
	switch mode := users.GetMode(); {
	case users == nil || mode == runtimeapi.NamespaceMode_NODE:
		return nil
	case mode != runtimeapi.NamespaceMode_POD:
		return fmt.Errorf("%s.mode = %s: a pod has one user namespace or none: want POD or NODE: %w", field,
			mode, errdefs.ErrInvalidArgument)
	case len(users.GetUids()) == 0 || len(users.GetGids()) == 0:
		return fmt.Errorf("%s: uids and gids are missing: a user namespace needs both: %w", field, errdefs.ErrInvalidArgument)
	}
	return nil
}

// newPod takes from a configuration what a sandbox is made of. Nothing is checked here: what cannot
// be honoured is refused by package oci, in the same words as for a config.json.
func newPod(id, netns string, config *runtimeapi.PodSandboxConfig) runtime.Pod {
	linux := config.GetLinux()
	namespaces := linux.GetSecurityContext().GetNamespaceOptions()
	resources := linux.GetResources()
	pod := runtime.Pod{
		ID: id, Namespace: config.GetMetadata().GetNamespace(), Hostname: config.GetHostname(), NetworkPath: netns,
		HostNetwork:  namespaces.GetNetwork() == runtimeapi.NamespaceMode_NODE,
		HostPID:      namespaces.GetPid() == runtimeapi.NamespaceMode_NODE,
		HostIPC:      namespaces.GetIpc() == runtimeapi.NamespaceMode_NODE,
		Sysctls:      linux.GetSysctls(),
		Annotations:  config.GetAnnotations(),
		ProcessLabel: label(linux.GetSecurityContext().GetSelinuxOptions()),
		CgroupParent: linux.GetCgroupParent(),
		Size: runtime.PodSize{
			MemoryBytes: resources.GetMemoryLimitInBytes(), CPUQuota: resources.GetCpuQuota(),
			CPUPeriod: uint64(max(0, resources.GetCpuPeriod())), CPUShares: uint64(max(0, resources.GetCpuShares())),
		},
	}
	if users := namespaces.GetUsernsOptions(); users != nil && users.GetMode() == runtimeapi.NamespaceMode_POD {
		pod.IDs = runtime.IDMap{UIDs: ranges(users.GetUids()), GIDs: ranges(users.GetGids())}
	}
	return pod
}

// ranges are CRI's mappings in the runtime's form.
func ranges(list []*runtimeapi.IDMapping) []runtime.IDRange {
	var out []runtime.IDRange
	for _, m := range list {
		out = append(out, runtime.IDRange{Container: m.GetContainerId(), Host: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// label is a pod's SELinux label; without a level the sandbox gets one of its own. The type is
// replaced later.
func label(o *runtimeapi.SELinuxOption) string {
	if o.GetLevel() == "" {
		return ""
	}
	return strings.Join([]string{
		cmp.Or(o.GetUser(), "system_u"), cmp.Or(o.GetRole(), "system_r"),
		cmp.Or(o.GetType(), "container_t"), o.GetLevel(),
	}, ":")
}

// files are those of /etc that a pod's containers share. containerd's CRI makes them for pods with
// a pause container; with the Sandbox API they are the shim's to make, in the same way.
func files(config *runtimeapi.PodSandboxConfig) (map[string][]byte, error) {
	// The host's, as containerd's CRI does it; the kubelet binds a pod's own over it.
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return nil, fmt.Errorf("hosts of the pod: %w", err)
	}
	out := map[string][]byte{"hosts": hosts, "resolv.conf": resolv(config.GetDnsConfig())}
	if out["resolv.conf"] == nil {
		if out["resolv.conf"], err = os.ReadFile("/etc/resolv.conf"); err != nil {
			return nil, fmt.Errorf("name servers of the pod: %w", err)
		}
	}
	if name := config.GetHostname(); name != "" {
		out["hostname"] = []byte(name + "\n")
	}
	return out, nil
}

// resolv is a resolv.conf, nil when the configuration says nothing: then the host's is used.
func resolv(dns *runtimeapi.DNSConfig) []byte {
	var b strings.Builder
	if s := dns.GetSearches(); len(s) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(s, " "))
	}
	for _, s := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if o := dns.GetOptions(); len(o) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o, " "))
	}
	if b.Len() == 0 {
		return nil
	}
	return []byte(b.String())
}

// checkBundle refuses a path that would depend on the working folder.
func checkBundle(bundle string) error {
	if !filepath.IsAbs(bundle) {
		return fmt.Errorf("bundle %q is not absolute: %w", bundle, errdefs.ErrInvalidArgument)
	}
	return nil
}
