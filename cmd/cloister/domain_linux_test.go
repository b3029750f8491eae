// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/labels/lsm"
)

// TestOwnDomainNamesTheRemedy: from a user's domain prove ends with what to do, and not with the
// advice to install a policy that is there.
func TestOwnDomainNamesTheRemedy(t *testing.T) {
	t.Parallel()
	missing := fmt.Errorf("start: %w", lsm.ErrNoDomain)
	for _, tt := range []struct {
		name, label string
		err         error
		explained   bool
	}{
		{"a user's domain", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023", missing, true},
		{"the shim's domain", "system_u:system_r:cloister_shim_t:s0-s0:c0.c1023", missing, false},
		{"no labels", "", missing, false},
		{"another error", "unconfined_u:unconfined_r:unconfined_t:s0", errors.New("another"), false},
		{"no error", "unconfined_u:unconfined_r:unconfined_t:s0", nil, false},
	} {
		dir := t.TempDir()
		name := filepath.Join(dir, "self/attr/current")
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(tt.label), 0o600)); err != nil {
			t.Fatal(err)
		}
		err := ownDomain("prove", lsm.Host{Proc: dir}, tt.err)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v wrapped", tt.name, err, tt.err)
		}
		text := fmt.Sprint(err)
		explained := strings.Contains(text, "domain unconfined_t") && strings.Contains(text, "cloister_shim_exec_t")
		if explained != tt.explained {
			t.Errorf("%s: %v, want the remedy: %v", tt.name, err, tt.explained)
		}
	}
}
