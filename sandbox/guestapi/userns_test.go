// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUserNamespace(t *testing.T) {
	want := UserNamespace{UIDs: []IDRange{{1, 5, 3}, {0, 65536, 1}}, GIDs: []IDRange{{0, 1<<32 - 1, 1}}}
	line := "console=ttyS0 " + strings.Join(want.Parameters(), " ") + " quiet\n"
	got, err := ParseUserNamespace(line)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("ParseUserNamespace(%q): %v (-want +got):\n%s", line, err, diff)
	}
	if uid, gid := got.Root(); uid != 65536 || gid != 1<<32-1 {
		t.Errorf("Root = %d, %d", uid, gid)
	}
	if none, err := ParseUserNamespace("quiet panic=-1"); err != nil || !none.IsZero() || none.Parameters() != nil {
		t.Errorf("a line without: %v, %v", none, err)
	}
	if uid, gid := (UserNamespace{}).Root(); uid != 0 || gid != 0 {
		t.Errorf("Root of none = %d, %d", uid, gid)
	}
	for _, line := range []string{
		"cloister.uids=0:1:2", "cloister.gids=0:1:2", "cloister.uids= cloister.gids=0:1:1", "cloister.uids=0:1 cloister.gids=0:1:1",
		"cloister.uids=0:1:4294967296 cloister.gids=0:1:1", "cloister.uids=0:-1:1 cloister.gids=0:1:1",
		"cloister.uids=0:1:1, cloister.gids=0:1:1",
	} {
		if got, err := ParseUserNamespace(line); err == nil {
			t.Errorf("ParseUserNamespace(%q) = %v, want an error", line, got)
		}
	}
}
