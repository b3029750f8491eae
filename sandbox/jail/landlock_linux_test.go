// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// TestFiles starts root's programs where they may open one folder alone.
func TestFiles(t *testing.T) {
	testenv.NeedRoot(t)
	if LandlockABI() == 0 {
		testenv.Need(t, testenv.Landlock, "the kernel has none")
	}
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, "own"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	run := func(name, script string, f *Files) string {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "dash"), "-c", script+" && echo done")
		cmd.Stdout = w
		if err := (Jail{Files: f, NoNewPrivs: true}).Start(cmd); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, ended(cmd.Wait())); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	for _, tt := range []struct {
		name, script string
		allowed      bool
	}{
		{"read in the tree", "read -r x <" + dir + "/own || [ \"$x\" = x ]", true},
		{"write in the tree", "echo y >" + dir + "/new", true},
		{"read beside it", "read -r x <" + secret + " || [ \"$x\" = x ]", false},
		{"write beside it", "echo y >" + secret, false},
		{"execute another program", "/bin/true", false},
		{"leave the tree", "read -r x <" + dir + "/../../../../etc/passwd", false},
	} {
		if got := run(tt.name, tt.script, &Files{Tree: dir}) == "done"; got != tt.allowed {
			t.Errorf("%s: succeeded %t, want %t", tt.name, got, tt.allowed)
		}
		if run(tt.name, tt.script, nil) != "done" {
			t.Errorf("%s fails without Landlock as well: it shows nothing", tt.name)
		}
	}
}
