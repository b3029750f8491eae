// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestFirstContainerHasTheSandboxesID: annotations that a user may write make no container a pod's
// first one, whose mounts are the engine's own.
func TestFirstContainerHasTheSandboxesID(t *testing.T) {
	for _, tt := range []struct {
		role    Role
		names   string
		refused bool
	}{
		{Sandbox, "one", false},
		{Sandbox, "", true},
		{Sandbox, "another", true},
		{Member, "another", false},
		{Single, "", false},
	} {
		err := (&Workload{Role: tt.role, SandboxID: tt.names}).CheckFirst("one")
		if errdefs.IsInvalidArgument(err) != tt.refused || err != nil && !tt.refused {
			t.Errorf("role %v that names %q = %v, want a refusal: %v", tt.role, tt.names, err, tt.refused)
		}
	}
}
