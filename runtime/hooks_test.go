// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cloister/oci"
	"cloister/sandbox/hooks"
)

// TestStopHooksRunAfterClientDisconnect has the client go before the hooks that follow what it
// asked for: an engine takes its networks down by them.
func TestStopHooksRunAfterClientDisconnect(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	made := filepath.Join(t.TempDir(), "made")
	list := []oci.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >/dev/null; : >" + made}}}
	new(Runtime).after(ctx, &container{id: "c", workload: &oci.Workload{}, bundle: t.TempDir()}, list, hooks.Stopped)
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
}
