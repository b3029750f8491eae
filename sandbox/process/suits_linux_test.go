// SPDX-License-Identifier: Apache-2.0

package process

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
)

// TestAnotherDomainInAPodIsRefused: a pod's containers run in one domain, and a container that asks
// for another one is refused by name.
func TestAnotherDomainInAPodIsRefused(t *testing.T) {
	label, err := labels.Parse("system_u:system_r:cloister_container_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	pod := &sandbox{identity: confine.Identity{Label: label}}
	pod.config.Host.Labels.MAC = "selinux"
	tests := []struct {
		name, asked string
		refused     bool
	}{
		{"no label", "", false},
		{"the engine's usual type", "system_u:system_r:container_t:s0:c1,c2", false},
		{"the pod's own type", "system_u:system_r:cloister_container_t:s0:c1,c2", false},
		{"another type", "system_u:system_r:strict_t:s0:c1,c2", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := pod.suits(&oci.Workload{Labels: oci.Labels{Process: tt.asked}})
			refused := errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "strict_t")
			if refused != tt.refused || err != nil && !refused {
				t.Errorf("suits = %v, want a refusal: %v", err, tt.refused)
			}
		})
	}
	without := &sandbox{}
	if err := without.suits(&oci.Workload{Labels: oci.Labels{Process: "system_u:system_r:strict_t:s0"}}); err != nil {
		t.Errorf("a host without labels: %v", err)
	}
}

// TestAnotherLevelInAPodIsRefused: the level of a pod's first container is the pod's; see confine
// TestOnePodHasOneLevel.
func TestAnotherLevelInAPodIsRefused(t *testing.T) {
	const file = "system_u:object_r:container_file_t:"
	pod := &sandbox{identity: confine.Identity{Label: testLabel(t)}, mount: file + "s0:c3,c4"}
	for asked, refused := range map[string]bool{"": false, file + "s0:c3,c4": false, file + "s0:c7,c8": true} {
		err := pod.suits(&oci.Workload{Labels: oci.Labels{Mount: asked}})
		if got := errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "seLinuxOptions.level"); got != refused ||
			err != nil && !got {
			t.Errorf("suits for files at %q = %v, want a refusal: %v", asked, err, refused)
		}
	}
}
