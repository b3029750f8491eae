// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"cloister/labels"
	"cloister/oci"
)

func TestTreatment(t *testing.T) {
	rules := []LabelRule{
		{Folder: "/srv", Sharing: labels.Shared},
		{Folder: "/srv/own/", Sharing: labels.Private},
		{Folder: "/srv/own/kept"},
		{Folder: "/data", Sharing: labels.Given, Label: "system_u:object_r:cloister_rootfs_t:s0:c1,c2"},
		{Folder: "/broken", Sharing: labels.Given, Label: "system_u"},
	}
	given, err := labels.Parse("system_u:object_r:cloister_rootfs_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		source string
		mount  oci.Mount
		want   labels.Sharing
		label  labels.Label
		ok     bool
	}{
		{"/elsewhere", oci.Mount{}, labels.Keep, labels.Label{}, true},
		{"/srv", oci.Mount{}, labels.Shared, labels.Label{}, true},
		{"/srv/a", oci.Mount{}, labels.Shared, labels.Label{}, true},
		{"/srvice", oci.Mount{}, labels.Keep, labels.Label{}, true},
		{"/srv/own/a", oci.Mount{}, labels.Private, labels.Label{}, true},
		{"/srv/own/kept", oci.Mount{}, labels.Keep, labels.Label{}, true},
		{"/data/a", oci.Mount{}, labels.Given, given, true},
		{"/broken", oci.Mount{}, labels.Given, labels.Label{}, false},
		{"/srv/a", oci.Mount{Sharing: "readonly"}, labels.ReadOnly, labels.Label{}, true},
		{"/data", oci.Mount{Sharing: "keep"}, labels.Keep, labels.Label{}, true},
		{"/srv/a", oci.Mount{Sharing: "label", Label: given.String()}, labels.Given, given, true},
	} {
		got, err := treatment(rules, tt.mount, Source{Real: tt.source})
		if (err == nil) != tt.ok || err == nil && (got != Treatment{Sharing: tt.want, Label: tt.label}) {
			t.Errorf("treatment(%+v, %q) = %+v, %v, want %s %v, ok %t", tt.mount, tt.source, got, err, tt.want, tt.label, tt.ok)
		}
	}
}
