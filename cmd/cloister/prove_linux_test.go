// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"cloister/oci"
)

func TestProveSpec(t *testing.T) {
	w, err := oci.Parse([]byte(proveSpec), oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.Namespaces.Network.Path != "" || w.Rootfs.Path != "rootfs" {
		t.Errorf("workload %+v", w)
	}
}
