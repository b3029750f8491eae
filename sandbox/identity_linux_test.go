// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"cloister/oci"
)

func TestTenant(t *testing.T) {
	for namespace, want := range map[string]string{"": "k8s.io", "red": "k8s.io/red"} {
		if got := tenant(Request{Namespace: "k8s.io", Workload: &oci.Workload{PodNamespace: namespace}}); got != want {
			t.Errorf("tenant of a pod in %q = %q, want %q", namespace, got, want)
		}
	}
}
