// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseID(t *testing.T) {
	for in, ok := range map[string]bool{
		"a": true, "A-1_b.c": true, strings.Repeat("f", 64): true, strings.Repeat("f", 128): true,
		"": false, strings.Repeat("f", 129): false, ".": false, "..": false, "-a": false, "_a": false,
		"a/b": false, "a\x00": false, "a b": false, "ä": false, "a\n": false,
	} {
		id, err := ParseID(in)
		if (err == nil) != ok || (ok && string(id) != in) || (!ok && !errors.Is(err, errdefs.ErrInvalidArgument)) {
			t.Errorf("ParseID(%q) = %q, %v, want valid: %t", in, id, err, ok)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("a-1")
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := ParseID(in); err == nil && strings.ContainsAny(in, "/\x00 \n") {
			t.Errorf("ParseID(%q) = nil", in)
		}
	})
}

// TestTable walks every pair of state and call.
func TestTable(t *testing.T) {
	const id = ID("c")
	calls := map[string]func(*Table) error{
		"prepare": func(t *Table) error { return t.Prepare(id) },
		"task":    func(t *Table) error { return t.Task(id) },
		"remove":  func(t *Table) error { _, err := t.Remove(id); return err },
	}
	for _, tt := range []struct {
		state state
		want  map[string]error
	}{
		{0, map[string]error{"task": errdefs.ErrNotFound}},
		{preparing, map[string]error{
			"prepare": errdefs.ErrAlreadyExists, "task": errdefs.ErrAlreadyExists,
			"remove": errdefs.ErrFailedPrecondition,
		}},
		{prepared, map[string]error{"prepare": errdefs.ErrAlreadyExists}},
		{tasked, map[string]error{
			"prepare": errdefs.ErrAlreadyExists, "task": errdefs.ErrAlreadyExists,
			"remove": errdefs.ErrFailedPrecondition,
		}},
		{removing, map[string]error{
			"prepare": errdefs.ErrAlreadyExists, "task": errdefs.ErrAlreadyExists,
			"remove": errdefs.ErrFailedPrecondition,
		}},
	} {
		for name, call := range calls {
			table := NewTable("/c")
			if tt.state != 0 {
				table.set(id, tt.state)
			}
			if err := call(table); !errors.Is(err, tt.want[name]) {
				t.Errorf("%s in state %d = %v, want %v", name, tt.state, err, tt.want[name])
			}
		}
	}
}
