// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Annotations of the engines, containerd's and CRI-O's. Both are read, so that one shim serves
// both.
const (
	annotationContainerType = "io.kubernetes.cri.container-type"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationPodNamespace  = "io.kubernetes.cri.sandbox-namespace"
	annotationCRIOType      = "io.kubernetes.cri-o.ContainerType"
	annotationCRIOSandbox   = "io.kubernetes.cri-o.SandboxID"
	annotationCRIONamespace = "io.kubernetes.cri-o.Namespace"
	annotationLabel         = "io.kubernetes.pod.namespace" // a label of the kubelet's
	annotationUID           = "io.kubernetes.pod.uid"       // another
	annotationGroup         = "io.containerd.runc.v2.group"
	annotationPodMemory     = "io.kubernetes.cri.sandbox-memory"
	annotationPodQuota      = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPodPeriod     = "io.kubernetes.cri.sandbox-cpu-period"
	annotationPodShares     = "io.kubernetes.cri.sandbox-cpu-shares"
)

// role finds the container's place in a pod by what the engine annotates. Without an annotation it
// is a container of its own. CRI-O is known by the name of its annotation, since it alone keeps a
// pod's namespaces in files.
//
// CRI-O passes all annotations of a pod on, and on the pod's first container they replace its own.
// Their author must not choose whose tenant the pod is: CRI-O writes the pod's labels last, and one
// of them is the kubelet's own word for the namespace.
func (w *Workload) role(p *problems) {
	a := w.Annotations
	w.Group = a[annotationGroup]
	if a[annotationContainerType] != "" && a[annotationCRIOType] != "" {
		p.refuse("annotations."+annotationContainerType, a[annotationContainerType],
			"is containerd's, and "+annotationCRIOType+" is CRI-O's: leave out the one that is not your engine's")
	}
	kind, field := a[annotationContainerType], annotationContainerType
	id, idField := a[annotationSandboxID], annotationSandboxID
	namespace, namespaceField := a[annotationPodNamespace], annotationPodNamespace
	if kind == "" {
		kind, field = a[annotationCRIOType], annotationCRIOType
		id, idField = a[annotationCRIOSandbox], annotationCRIOSandbox
		namespace, namespaceField = a[annotationCRIONamespace], annotationCRIONamespace
		w.kept = kind != ""
		if label := a[annotationLabel]; w.kept && namespace != "" && label != "" && namespace != label {
			p.refuse("annotations."+namespaceField, namespace, "is not the pod's namespace, "+label+": leave it to the engine")
		}
	}
	switch kind {
	case "":
		w.Role = Single
		return
	case "sandbox":
		w.Role = Sandbox
	case "container":
		w.Role = Member
	default:
		p.refuse("annotations."+field, kind, "is neither sandbox nor container")
		return
	}
	w.SandboxID, w.PodNamespace = id, namespace
	// It becomes a part of the tenant's name, in which a slash ends the engine's own namespace.
	if strings.ContainsAny(namespace, "/\x00") || namespace == "." || namespace == ".." {
		p.refuse("annotations."+namespaceField, namespace, "is no name of a namespace")
	}
	if id == "" && w.Role == Member {
		p.refuse("annotations."+idField, nil, "is missing: a container of a pod names its sandbox")
	}
	w.Pod = PodSize{
		MemoryBytes: p.number(a, annotationPodMemory),
		CPUQuota:    p.number(a, annotationPodQuota),
		CPUPeriod:   uint64(max(0, p.number(a, annotationPodPeriod))),
		CPUShares:   uint64(max(0, p.number(a, annotationPodShares))),
	}
}

// CheckFirst refuses a container that its annotations alone make a pod's first one. Its mounts are
// taken for the engine's own and are not compared, and its end is that of the sandbox that its
// annotations lead to, so a user must not be able to claim the place: the engine that makes a pod
// names the first container by the id that it has just drawn.
func (w *Workload) CheckFirst(id string) error {
	if w.Role != Sandbox || w.SandboxID == id {
		return nil
	}
	return fmt.Errorf("annotations: the container is marked as a pod's first one and names sandbox %q, want its own id, %s: "+
		"leave the annotations of the engine to it: %w", w.SandboxID, id, errdefs.ErrInvalidArgument)
}

// CheckPod refuses a container that annotations alone make one of the pod whose first container
// that is. CRI-O lets a pod's annotations replace its own on the first container, and so name
// another pod; the kubelet's word for the pod comes after them. nil suits every container.
func (w *Workload) CheckPod(first *Workload) error {
	if first == nil || w.Role != Member {
		return nil
	}
	own, pod := w.Annotations[annotationUID], first.Annotations[annotationUID]
	if own == "" || pod == "" || own == pod { // containerd passes no labels on, and no annotations of others
		return nil
	}
	return fmt.Errorf("annotations.%s = %q: the container names a sandbox of the pod %s: leave the annotations of the engine to it: %w",
		annotationUID, own, pod, errdefs.ErrInvalidArgument)
}

// number reads a whole number from an annotation; absent or empty is 0, which means not said.
func (p *problems) number(a map[string]string, name string) int64 {
	v := strings.TrimSpace(a[name])
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		p.refuse("annotations."+name, v, "is not a whole number")
	}
	return n
}
