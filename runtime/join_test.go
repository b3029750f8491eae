// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/oci"
)

// TestTarget: whose namespaces a container joins, for what engines say with a pid that all
// containers of a guest have.
func TestTarget(t *testing.T) {
	shared := oci.Namespace{Path: "/proc/4711/ns/pid", Pid: 4711}
	own, joined := neighbour{"main", true}, neighbour{"debugger", false}
	for _, tt := range []struct {
		name     string
		role     oci.Role
		pid, ipc oci.Namespace
		beside   []neighbour
		want     string
		err      error
	}{
		{"alone", oci.Single, oci.Namespace{}, oci.Namespace{}, nil, "", nil},
		{"network alone is joined", oci.Single, oci.Namespace{}, oci.Namespace{}, []neighbour{own}, "", nil},
		{"processes of the one beside it", oci.Single, shared, oci.Namespace{}, []neighbour{own}, "main", nil},
		{"ipc of the one beside it", oci.Single, oci.Namespace{}, shared, []neighbour{own}, "main", nil},
		{"one of two", oci.Single, shared, oci.Namespace{}, []neighbour{own, joined}, "", errdefs.ErrInvalidArgument},
		{"one that has ended", oci.Single, shared, oci.Namespace{}, nil, "", errdefs.ErrFailedPrecondition},
		{"a pod that shares", oci.Member, shared, shared, []neighbour{joined}, "", nil},
		{"a pod's first container that shares", oci.Member, shared, shared, nil, "", nil},
		{"a pod that does not share", oci.Member, oci.Namespace{}, shared, []neighbour{own}, "", nil},
		{"kubectl debug --target", oci.Member, shared, shared, []neighbour{own}, "main", nil},
		{"kubectl debug --target, again", oci.Member, shared, shared, []neighbour{own, joined}, "main", nil},
		{
			"kubectl debug --target of one of two", oci.Member, shared, shared,
			[]neighbour{own, {"sidecar", true}},
			"", errdefs.ErrInvalidArgument,
		},
	} {
		w := &oci.Workload{Role: tt.role, Namespaces: oci.Namespaces{PID: tt.pid, IPC: tt.ipc}}
		got, err := target(w, tt.beside)
		if got != tt.want || !errors.Is(err, tt.err) || tt.err == nil && err != nil {
			t.Errorf("%s: target = %q, %v, want %q, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}
