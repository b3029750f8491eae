// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"maps"
	"strings"
	"testing"
)

// TestSharedMemoryOfOthersIsAVolume: only what the engine made for the pod is the pod's shared
// memory. A folder that a user names for the same place is a volume.
func TestSharedMemoryOfOthersIsAVolume(t *testing.T) {
	const engines = "/run/containerd/pod/shm"
	memory := func(role Role, source string) *Workload {
		return &Workload{Role: role, Mounts: []Mount{{Kind: BindMount, Purpose: SharedMemory, Source: source, Destination: "/dev/shm"}}}
	}
	for _, tt := range []struct {
		name  string
		first *Workload
		named string
		want  Purpose
	}{
		{"the pod's own", memory(Sandbox, engines), engines, SharedMemory},
		{"the pod's own, below the bundle", memory(Sandbox, "shm"), "/bundle/x/../shm", SharedMemory},
		{"a folder of the host", memory(Sandbox, engines), "/srv/database", Volume},
		{"the host's, as hostIPC has it", memory(Sandbox, "/dev/shm"), "/dev/shm", Volume},
		{"a pod without", &Workload{Role: Sandbox}, "/srv/database", Volume},
		{"a first container of another engine", memory(Single, engines), engines, Volume},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := memory(Member, tt.named)
			w.ClaimMemory(tt.first.OwnMemory("/bundle"), "/bundle")
			if got := w.Mounts[0].Purpose; got != tt.want {
				t.Errorf("purpose = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestPodNamespaceIsAName: it becomes a part of a tenant's name, and must not lead to another.
func TestPodNamespaceIsAName(t *testing.T) {
	for namespace, ok := range map[string]bool{
		"": true, "default": true, "a.b_c": true, "..": false, ".": false, "../x": false, "a/b": false,
	} {
		for _, names := range [][3]string{
			{annotationContainerType, annotationSandboxID, annotationPodNamespace},
			{annotationCRIOType, annotationCRIOSandbox, annotationCRIONamespace},
		} {
			w := &Workload{Annotations: map[string]string{names[0]: "sandbox", names[1]: "pod", names[2]: namespace}}
			var p problems
			w.role(&p)
			if got := p.err() == nil; got != ok {
				t.Errorf("%s=%q: %v, want it taken: %v", names[2], namespace, p.err(), ok)
			}
		}
	}
}

// TestTenantIsTheEnginesWord: CRI-O lets a pod's annotations replace its own. They must not make
// the pod one of another tenant's.
func TestTenantIsTheEnginesWord(t *testing.T) {
	crio := map[string]string{
		annotationCRIOType: "sandbox", annotationCRIOSandbox: "pod", annotationCRIONamespace: "own", annotationLabel: "own",
	}
	for _, tt := range []struct {
		name  string
		more  map[string]string
		wrong string // the annotation that is refused
	}{
		{"CRI-O's", nil, ""},
		{"an engine without the label", map[string]string{annotationLabel: ""}, ""},
		{"a later container", map[string]string{annotationCRIOType: "container", annotationCRIONamespace: ""}, ""},
		{"another namespace", map[string]string{annotationCRIONamespace: "other"}, annotationCRIONamespace},
		{
			"containerd's annotations beside CRI-O's",
			map[string]string{annotationContainerType: "sandbox", annotationSandboxID: "pod", annotationPodNamespace: "other"},
			annotationContainerType,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &Workload{Annotations: maps.Clone(crio)}
			maps.Copy(w.Annotations, tt.more)
			var p problems
			w.role(&p)
			err := p.err()
			if (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), "annotations."+tt.wrong) {
				t.Errorf("role = %v, want %q refused", err, tt.wrong)
			}
		})
	}
}
