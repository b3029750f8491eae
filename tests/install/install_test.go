// SPDX-License-Identifier: Apache-2.0

package install

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// tree is a tree with the script and stand-ins for what is built, and a folder to install below.
type tree struct {
	t            *testing.T
	script, dest string
}

func newTree(t *testing.T) tree {
	t.Helper()
	top := t.TempDir()
	script, err := os.ReadFile(filepath.Join(testenv.Tree(t), ".ci", "install"))
	if err != nil {
		t.Fatal(err)
	}
	r := tree{t, filepath.Join(top, ".ci", "install"), t.TempDir()}
	r.write(r.script, string(script))
	for _, name := range []string{
		"containerd-shim-cloister-v2", "cloister", "cloister-agent", "cloister-oci", "man/cloister.1", "man/cloister-ps.1",
		"completions/cloister.bash", "completions/cloister.zsh", "completions/cloister.fish",
		"guest/small/kernel", "guest/small/initrd", "guest/small/manifest.json",
		"guest/distro/kernel", "guest/distro/initrd", "guest/distro/manifest.json",
	} {
		r.write(filepath.Join(top, "build", name), name)
	}
	return r
}

func (r tree) write(name, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// run installs, and gives what was said and the config.
func (r tree) run(arguments string, env ...string) (said, config string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "sh", append([]string{r.script}, strings.Fields(arguments)...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "DESTDIR=" + r.dest}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("install %q: %v\n%s", env, err, out)
	}
	text, err := os.ReadFile(filepath.Join(r.dest, "etc/cloister/config.toml"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return string(out), string(text)
}

func TestChosenSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want []string
	}{
		{"not probed", nil, []string{`mac = "auto"`, "/usr/share/cloister/guest/small"}},
		{"named", []string{"MAC=apparmor"}, []string{`mac = "apparmor"`}},
		{"said", []string{"MAC=none", "PREFIX=/opt/c", "FLAVOUR=distro"}, []string{`mac = "none"`, "/opt/c/share/cloister/guest/distro"}},
	} {
		said, config := newTree(t).run("", tt.env...)
		for _, want := range tt.want {
			if !strings.Contains(config, want) {
				t.Errorf("%s: the config has no %s:\n%s", tt.name, want, config)
			}
		}
		if !strings.Contains(said, tt.want[0]) || !strings.Contains(said, "next, on the host itself") {
			t.Errorf("%s: it says neither what was chosen nor what is next:\n%s", tt.name, said)
		}
	}
}

// TestReinstallKeepsConfig: a config that nobody has changed follows the next install; a
// changed one stays, and that is said.
func TestReinstallKeepsConfig(t *testing.T) {
	r := newTree(t)
	r.run("", "FLAVOUR=distro")
	if _, config := r.run("", "FLAVOUR=small"); !strings.Contains(config, "guest/small") {
		t.Errorf("small after distro: the config is\n%s", config)
	}
	own := "[guest]\nimage = \"/srv/mine\"\n"
	r.write(filepath.Join(r.dest, "etc/cloister/config.toml"), own)
	said, config := r.run("", "FLAVOUR=distro")
	if config != own || !strings.Contains(said, "kept /etc/cloister/config.toml") || !strings.Contains(said, "/srv/mine") {
		t.Errorf("a changed config: it is %q, said:\n%s", config, said)
	}
}

func TestRemove(t *testing.T) {
	r := newTree(t)
	r.run("")
	for name, want := range map[string]string{
		"containerd-shim-cloister-process-v2": "containerd-shim-cloister-v2", "cloister-oci-process": "cloister-oci",
	} {
		if to, err := os.Readlink(filepath.Join(r.dest, "usr/bin", name)); to != want {
			t.Errorf("%s, for class process, is a link to %q, %v, want %q", name, to, err, want)
		}
	}
	r.run("--remove")
	var left []string
	err := filepath.WalkDir(r.dest, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, path)
		}
		return err
	})
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if slices.Contains([]string{"", "/"}, r.dest) {
		t.Fatal("installed into the host")
	}
}
