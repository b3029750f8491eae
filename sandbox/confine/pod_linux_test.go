// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/labels"
)

// TestOnePodHasOneLevel: a pod's author names the level of another engine's container for one
// container of a pod. That container's files would else pass for the engine's own.
func TestOnePodHasOneLevel(t *testing.T) {
	const file = "system_u:object_r:container_file_t:"
	own := label(t, "system_u:system_r:cloister_qemu_t:s0:c1,c2")
	for _, tt := range []struct {
		name, first, asked string
		own                labels.Label
		refused            bool
	}{
		{"none", file + "s0:c3,c4", "", own, false},
		{"the pod's, as its engine drew it", file + "s0:c3,c4", file + "s0:c3,c4", own, false},
		{"another type at that level", file + "s0:c3,c4", "system_u:object_r:other_t:s0:c3,c4", own, false},
		{"the sandbox's own", file + "s0:c3,c4", file + "s0:c1,c2", own, false},
		{"no category", file + "s0:c3,c4", file + "s0", own, false},
		{"another's", file + "s0:c3,c4", file + "s0:c7,c8", own, true},
		{"every category", file + "s0:c3,c4", file + "s0:c0.c1023", own, true},
		{"another's in a range", file + "s0:c3,c4", file + "s0-s0:c7,c8", own, true},
		{"another's in a pod without a level", "", file + "s0:c7,c8", own, true},
		{"the sandbox's own in a pod without a level", "", file + "s0:c1,c2", own, false},
		{"a host that labels nothing", "", file + "s0:c7,c8", labels.Label{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := SuitsPod(tt.own, tt.first, tt.asked)
			if refused := errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "seLinuxOptions.level"); refused != tt.refused ||
				err != nil && !refused {
				t.Errorf("SuitsPod = %v, want a refusal: %v", err, tt.refused)
			}
		})
	}
}
