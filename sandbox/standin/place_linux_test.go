// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"slices"
	"testing"

	"cloister/sandbox/jail"
	"cloister/sandbox/prove"
)

func TestLayersOf(t *testing.T) {
	for _, l := range prove.All() {
		if l != prove.MAC && len(partsOf(l)) == 0 {
			t.Errorf("layer %s has no part of the jail", l)
		}
	}
	for _, tt := range []struct {
		config jail.Config
		mac    bool
		abi    int
		off    []prove.Layer
	}{
		{jail.Config{}, true, 7, nil},
		{jail.Config{}, false, 7, []prove.Layer{prove.MAC}},
		{jail.Config{}, true, 0, []prove.Layer{prove.Landlock}},
		{jail.Config{Disable: []jail.Part{jail.Seccomp, jail.Users}}, true, 7, []prove.Layer{prove.Seccomp}},
		{jail.Config{Disable: []jail.Part{jail.Users, jail.Capabilities, jail.NoNewPrivs}}, true, 7, []prove.Layer{prove.User}},
	} {
		want := slices.DeleteFunc(prove.All(), func(l prove.Layer) bool { return slices.Contains(tt.off, l) })
		if got := layersOf(tt.config, tt.mac, tt.abi); !slices.Equal(got, want) {
			t.Errorf("layersOf(%+v, %t, %d) = %v, want %v", tt.config, tt.mac, tt.abi, got, want)
		}
	}
}
