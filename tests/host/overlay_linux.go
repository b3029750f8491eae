// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"path/filepath"
	"testing"
)

// Overlay has what is written below folders of the host stay in the place, where programs have
// fixed names for them. The place's own /etc/hosts is no longer seen then.
func (p *Place) Overlay(t testing.TB, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		up, work := filepath.Join(p.Dir, "over", folder, "up"), filepath.Join(p.Dir, "over", folder, "work")
		for _, dir := range []string{up, work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p.Run(t, "mount", "-t", "overlay", "-o", "lowerdir="+folder+",upperdir="+up+",workdir="+work, "overlay", folder)
	}
}
