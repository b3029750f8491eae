// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/sandbox/confine"
)

// TestChosenProfile: a profile that somebody chose is refused where the sandbox has its own, and
// is the OCI runtime's elsewhere.
func TestChosenProfile(t *testing.T) {
	for _, tt := range []struct {
		mac           confine.MAC
		name, disable string
		ok            bool
	}{
		{confine.AppArmor, "", "", true}, // also one that engines give unasked
		{confine.AppArmor, "unconfined", "", false},
		{confine.AppArmor, "unconfined", "refuse", false},
		{confine.AppArmor, "unconfined", "confine", true},
		{confine.AppArmor, "mine", "", false},
		{confine.AppArmor, "mine", "confine", false},
		{confine.None, "mine", "", true},
		{confine.SELinux, "unconfined", "", true},
	} {
		err := checkProfile(tt.mac, confine.Config{EngineDisable: tt.disable}, tt.name)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("profile %q with %q and engine_disable = %q: %v, want it accepted: %t", tt.name, tt.mac, tt.disable, err, tt.ok)
		}
	}
}
