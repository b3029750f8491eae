// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

// TestRPMs: each .rpm holds the files of the .deb, with their modes and owners, and keeps the same
// ones when an administrator has changed them. Only zsh looks elsewhere.
func TestRPMs(t *testing.T) {
	testenv.NeedTool(t, "rpm")
	testenv.NeedTool(t, "dpkg-deb")
	testenv.NeedShim(t)
	testenv.NeedGuest(t)
	folder := filepath.Join(pack(t), "build", "packages")
	lines := func(program string, args ...string) []string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), program, args...).Output()
		if err != nil {
			t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	for _, name := range []string{"cloister", "cloister-guest", "cloister-selinux"} {
		t.Run(name, func(t *testing.T) {
			rpms, _ := filepath.Glob(filepath.Join(folder, name+"-[0-9]*.rpm"))
			debs, _ := filepath.Glob(filepath.Join(folder, name+"_*.deb"))
			if len(rpms) != 1 || len(debs) != 1 {
				t.Fatalf("packages: %q, %q, want one of each", rpms, debs)
			}
			var ours, theirs []string
			const form = `[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]`
			for _, line := range lines("rpm", "-qp", "--qf", form, rpms[0]) {
				ours = append(ours, strings.Replace(line, "/zsh/site-functions/", "/zsh/vendor-completions/", 1))
			}
			for _, line := range lines("dpkg-deb", "--contents", debs[0]) {
				// Mode, owner, size, day, time, path, and for a link what it leads to.
				f := strings.Fields(line)
				theirs = append(theirs, f[0]+" "+f[1]+" "+strings.TrimPrefix(f[5], "."))
			}
			// A .deb has the folders above a file, too.
			isFolder := func(line string) bool { return strings.HasPrefix(line, "d") }
			ours, theirs = slices.DeleteFunc(ours, isFolder), slices.DeleteFunc(theirs, isFolder)
			slices.Sort(ours)
			slices.Sort(theirs)
			if diff := cmp.Diff(theirs, ours); diff != "" || len(ours) == 0 {
				t.Errorf("files of the .deb (-) and the .rpm (+):\n%s", diff)
			}
			if name == "cloister-guest" {
				return // it has no configuration
			}
			kept := lines("dpkg-deb", "--info", debs[0], "conffiles")
			if diff := cmp.Diff(kept, lines("rpm", "-qp", "--configfiles", rpms[0])); diff != "" || kept[0] == "" {
				t.Errorf("configuration files of the .deb (-) and the .rpm (+):\n%s", diff)
			}
		})
	}
}
