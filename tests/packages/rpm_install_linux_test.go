// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

// TestRPMInstall has rpm install and erase all packages at once, in a root of its own with a shell
// and nothing else. The script that installs the policy module runs when cloister's program is
// there, and so does the one that removes it: the program says that this root has no SELinux.
func TestRPMInstall(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedTool(t, "rpm")
	testenv.NeedShim(t)
	testenv.NeedGuest(t)
	busybox := testenv.NeedBusybox(t)
	rpms, err := filepath.Glob(filepath.Join(pack(t), "build", "packages", "*.rpm"))
	if err != nil || len(rpms) != 3 {
		t.Fatalf("packages: %q, %v, want three", rpms, err)
	}
	root := t.TempDir()
	for _, args := range [][]string{
		{"mkdir", "-p", root + "/bin", root + "/dev"},
		{"cp", "-L", busybox, root + "/bin/sh"},
		{"mknod", root + "/dev/null", "c", "1", "3"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	// What the packages depend on is not there; their order among each other counts all the same.
	rpm := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "rpm", append([]string{"--root", root, "--nodeps"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("rpm %q: %v", args, err)
		}
		t.Logf("rpm %s:\n%s", args[0], out)
		return string(out)
	}
	before := kept(t, root)
	if said := rpm(append([]string{"--install"}, rpms...)...); !strings.Contains(said, "cloister: policy install: ") {
		t.Errorf("the installation did not run cloister policy install: %s", said)
	}
	// An administrator's change outlives another installation and the removal.
	config := filepath.Join(root, "etc/cloister/config.toml")
	if err := os.WriteFile(config, []byte("# changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	rpm(append([]string{"--upgrade", "--replacepkgs", "--replacefiles"}, rpms...)...)
	if text, err := os.ReadFile(config); err != nil || string(text) != "# changed\n" {
		t.Errorf("the changed configuration: %q, %v", text, err)
	}
	if said := rpm("--erase", "cloister", "cloister-guest", "cloister-selinux"); !strings.Contains(said, "cloister: policy remove: ") {
		t.Errorf("the removal did not run cloister policy remove: %s", said)
	}
	if diff := cmp.Diff(append(before, "/etc/cloister/config.toml.rpmsave"), kept(t, root)); diff != "" {
		t.Errorf("files before (-) and after (+):\n%s", diff)
	}
}

// kept lists the files of a root, without rpm's own.
func kept(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if err == nil && !entry.IsDir() && !strings.Contains(name, "rpm/") && !strings.Contains(name, "/.rpmdb/") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}
