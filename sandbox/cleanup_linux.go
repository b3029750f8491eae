// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"path/filepath"
)

// Cleanup takes back what a sandbox left whose shim is dead. A sandbox that
// lives, and one that left nothing, is not touched.
func Cleanup(_ context.Context, cfg Config, namespace, id string) error {
	cfg = cfg.withDefaults()
	return removeTree(filepath.Join(cfg.State, namespace, id))
}
