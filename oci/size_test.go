// SPDX-License-Identifier: Apache-2.0

package oci

import "testing"

func TestSizingOnHostKeepsTheLowerBound(t *testing.T) {
	for _, tt := range []struct{ configured, host, want int }{
		{0, 4, 4},
		{2, 4, 2},
		{8, 4, 4},
	} {
		if got := (Sizing{MaxCPUs: tt.configured}).OnHost(tt.host).MaxCPUs; got != tt.want {
			t.Errorf("max_cpus %d on a host with %d CPUs = %d, want %d", tt.configured, tt.host, got, tt.want)
		}
	}
}
