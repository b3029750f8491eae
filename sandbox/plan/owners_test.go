// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/oci"
)

func TestUsers(t *testing.T) {
	shift := []oci.IDRange{{Container: 0, Host: 65536, Size: 65536}}
	if diff := cmp.Diff([]string{"cloister.uids=0:65536:65536", "cloister.gids=0:65536:65536"},
		Users(oci.IDMap{UIDs: shift, GIDs: shift}).Parameters()); diff != "" {
		t.Errorf("kernel's line (-want +got):\n%s", diff)
	}
	if p := Users(oci.IDMap{}).Parameters(); p != nil {
		t.Errorf("without a user namespace: %q", p)
	}
}
