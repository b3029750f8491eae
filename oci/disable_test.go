// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"testing"
)

// TestLabelDisable reads label=disable where Podman writes it, in both classes.
func TestLabelDisable(t *testing.T) {
	for value, want := range map[string]bool{
		"disable": true, "level:s0:c1,c2,label=disable": true, "level:s0:c1,c2": false, "type:disable_t": false, "": false,
	} {
		config := fmt.Appendf(nil, `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["true"],"cwd":"/"},
			"annotations":{"io.podman.annotations.label":%q},
			"linux":{"namespaces":[{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}]}}`, value)
		for class, parse := range map[Class]func([]byte, Options) (*Workload, error){ClassVM: Parse, ClassProcess: ParseContainer} {
			w, err := parse(config, Options{})
			if err != nil {
				t.Errorf("%s: %v", class, err)
			} else if w.Labels.Disable != want {
				t.Errorf("%s: %q disables labels: %t, want %t", class, value, w.Labels.Disable, want)
			}
		}
	}
}
