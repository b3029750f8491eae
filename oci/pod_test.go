// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewPod(t *testing.T) {
	pod := Pod{
		ID: "p1", Namespace: "red", Hostname: "web-0", NetworkPath: "/run/netns/p1", ProcessLabel: "u:r:t:s0",
		CgroupParent: "kubepods-pod1.slice",
		Sysctls:      map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
		Annotations:  map[string]string{"a": "b", annotationPodMemory: "1024", annotationPodNamespace: "forged"},
		Size:         PodSize{MemoryBytes: 1 << 30},
		IDs:          IDMap{UIDs: []IDRange{{0, 1000, 10}}, GIDs: []IDRange{{0, 2000, 10}}},
	}
	w, err := NewPod(pod, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.Role != Sandbox || w.SandboxID != "p1" || w.PodNamespace != "red" || w.Hostname != "web-0" ||
		w.Namespaces.Network.Path != "/run/netns/p1" || w.Labels.Process != "u:r:t:s0" ||
		w.CgroupsPath != "kubepods-pod1.slice:cri-containerd:p1" || w.Pod.MemoryBytes != 1<<30 ||
		w.Annotations["a"] != "b" || w.Sysctls.Network["net.ipv4.ip_forward"] != "1" || w.Sysctls.Kernel["kernel.shm_rmid_forced"] != "1" {
		t.Errorf("NewPod = %+v", w)
	}
	if !w.Namespaces.IDs.Equal(pod.IDs) {
		t.Errorf("users of the pod = %v", w.Namespaces.IDs)
	}
	if len(pod.Annotations) != 3 {
		t.Error("the caller's annotations were changed")
	}
	_, err = NewPod(Pod{
		ID: "p", HostNetwork: true, HostPID: true, HostIPC: true,
		Sysctls: map[string]string{"kernel.modprobe": "/x"},
	}, Options{})
	want := []string{"linux.namespaces", "linux.namespaces", "linux.namespaces", "linux.sysctl[kernel.modprobe]"}
	if d := cmp.Diff(want, fields(err)); d != "" {
		t.Errorf("fields (-want +got):\n%s", d)
	}
	for parent, want := range map[string]string{"": "", "/kubepods/pod1": "/kubepods/pod1/p", "a.slice": "a.slice:cri-containerd:p"} {
		if got := (Pod{ID: "p", CgroupParent: parent}).cgroupsPath(); got != want {
			t.Errorf("cgroupsPath below %q = %q, want %q", parent, got, want)
		}
	}
}
