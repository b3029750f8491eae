// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"maps"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Pod is what an engine says of a pod that comes without a config.json: through containerd's
// Sandbox API. Fields that are not given in the form of OCI are here so that NewPod can refuse them
// by the same rules.
type Pod struct {
	ID           string
	Namespace    string // its namespace in Kubernetes
	Hostname     string
	NetworkPath  string // host path of its network namespace; empty: a new one
	HostNetwork  bool   // these three are refused, by the name of their field
	HostPID      bool
	HostIPC      bool
	IDs          IDMap // of its user namespace; zero: none
	Sysctls      map[string]string
	Annotations  map[string]string
	ProcessLabel string // SELinux, as given
	CgroupParent string // a path, or a slice's name
	Size         PodSize
}

// NewPod is Parse for a Pod: the Sandbox workload that it describes, or an error with all that
// cannot be honoured. It writes the configuration that an engine would have written and checks
// that, so that the two ways cannot differ. Its GuestSpec is of no use: a pod's sandbox runs no
// process of its own.
func NewPod(pod Pod, opts Options) (*Workload, error) {
	spec := &specs.Spec{
		Version:  specs.Version,
		Process:  &specs.Process{Cwd: "/", SelinuxLabel: pod.ProcessLabel},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: pod.Hostname,
		Linux: &specs.Linux{
			Sysctl:      pod.Sysctls,
			CgroupsPath: pod.cgroupsPath(),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}},
		},
	}
	spec.Annotations = maps.Clone(pod.Annotations)
	// These replace what the pod's author may have written under the same names.
	put(&spec.Annotations, annotationContainerType, "sandbox")
	put(&spec.Annotations, annotationSandboxID, pod.ID)
	put(&spec.Annotations, annotationPodNamespace, pod.Namespace)
	add := func(host bool, t specs.LinuxNamespaceType, path string) {
		if !host {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	add(pod.HostNetwork, specs.NetworkNamespace, pod.NetworkPath)
	add(pod.HostPID, specs.PIDNamespace, "")
	add(pod.HostIPC, specs.IPCNamespace, "")
	add(false, specs.UTSNamespace, "")
	add(pod.IDs.IsZero(), specs.UserNamespace, "")
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mappings(pod.IDs.UIDs), mappings(pod.IDs.GIDs)
	w, err := understand(spec, opts)
	if err != nil {
		return nil, err
	}
	// The Sandbox API has the sizes as fields; annotations, which a pod's author may write, count
	// only where it says none.
	if pod.Size != (PodSize{}) {
		w.Pod = pod.Size
	}
	return w, nil
}

// cgroupsPath is what an engine would have written for the pod's first container: a path, or for a
// slice the form SLICE:PREFIX:NAME of the systemd driver.
func (p Pod) cgroupsPath() string {
	switch {
	case p.CgroupParent == "":
		return ""
	case strings.HasSuffix(p.CgroupParent, ".slice") && !strings.Contains(p.CgroupParent, "/"):
		return p.CgroupParent + ":cri-containerd:" + p.ID
	}
	return p.CgroupParent + "/" + p.ID
}
