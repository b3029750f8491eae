// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"cloister/tests/testenv"
)

// Disks is containerd's configuration by which UseDisks works.
func Disks(t testing.TB) string {
	t.Helper()
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	mkfs := exec.CommandContext(t.Context(), testenv.NeedTool(t, "mkfs.ext4"),
		"-q", "-O", "^has_journal", "-E", "root_owner=0:0", scratch, "32M")
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", mkfs.Args, out)
	}
	return fmt.Sprintf("[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nscratch_file = %q\nfs_type = \"ext4\"\n"+
		"mount_options = []\nrecreate_scratch = true\n", scratch)
}

// UseDisks has the root file systems of later containers be on disks.
func (b *Bed) UseDisks(t testing.TB) {
	t.Helper()
	b.Env = append(b.Env, "CONTAINERD_SNAPSHOTTER=blockfile") // of ctr from here on
	b.Must(t, "images", "import", "--local", filepath.Join(b.Dir, "busybox.tar"))
}
