// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"cloister/sandbox"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	main := write(t, filepath.Join(dir, "config.toml"),
		"state = \"/a\"\nroot = \"/r\"\n[timeouts]\nboot = \"2m\"\n[labels]\nmac = \"none\"\n")
	write(t, filepath.Join(dir, "config.d", "20.toml"), "state = \"/c\"\n")
	write(t, filepath.Join(dir, "config.d", "10.toml"), "state = \"/b\"\n[machine]\naccel = \"tcg\"\n")
	write(t, filepath.Join(dir, "config.d", "30.txt"), "nonsense")
	for _, named := range []bool{true, false} {
		path := main
		if !named {
			t.Setenv(Env, main)
			path = ""
		}
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.State != "/c" || c.Root != "/r" || c.Machine.Accel != "tcg" || c.Labels.MAC != "none" ||
			c.Timeouts.Boot.Duration != 2*time.Minute {
			t.Errorf("Load(%q) = %+v", path, c)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text, says string
		want             error
	}{
		{"unknown key", "[machine]\naccell = \"kvm\"\n", "accell", errdefs.ErrInvalidArgument},
		{"wrong kind", "[machine]\nnics = \"two\"\n", "nics", errdefs.ErrInvalidArgument},
		{
			"memory below zero", "[sizing]\ndefault_memory_mib = -1\n",
			"sizing.default_memory_mib = -1: want 4 to 1048576", errdefs.ErrInvalidArgument,
		},
		{"no CPU", "[sizing]\ndefault_cpus = 0\n", "sizing.default_cpus = 0: want 1 to 254", errdefs.ErrInvalidArgument},
		{"too many CPUs", "[sizing]\ndefault_cpus = 500\n", "sizing.default_cpus = 500", errdefs.ErrInvalidArgument},
		{"no bound", "[sizing]\nmax_memory_mib = 0\n", "sizing.max_memory_mib = 0", errdefs.ErrInvalidArgument},
		{"no reserve", "[sizing]\nreserve_mib = 1\n", "sizing.reserve_mib = 1", errdefs.ErrInvalidArgument},
		{"no NIC", "[machine]\nnics = -1\n", "machine.nics = -1: want 1 to 30", errdefs.ErrInvalidArgument},
		{"no time", "[timeouts]\nboot = \"-5s\"\n", "timeouts.boot = \"-5s\": want a time above zero", errdefs.ErrInvalidArgument},
		{"no TOML", "[machine\n", "", errdefs.ErrInvalidArgument},
		{"no duration", "[timeouts]\nboot = \"soon\"\n", "soon", errdefs.ErrInvalidArgument},
		{"too large", "#" + strings.Repeat("x", maxBytes), "bytes", errdefs.ErrInvalidArgument},
	} {
		name := write(t, filepath.Join(t.TempDir(), "config.toml"), tt.text)
		_, err := Load(name)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want %v that names %q and the file", tt.name, err, tt.want, tt.says)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
}

// TestFolders: a wrong key or value is a problem beside the folders, which other files and the
// rest of the same file still name.
func TestFolders(t *testing.T) {
	for _, tt := range []struct{ name, text, state string }{
		{"unknown key", "[machine]\naccell = \"kvm\"\n", "/a"},
		{"wrong kind", "[machine]\nnics = \"two\"\n", "/a"},
		{"no TOML", "[machine\n", "/a"},
		{"state beside it", "stat = 1\nstate = \"/b\"\n", "/b"},
	} {
		dir := t.TempDir()
		main := write(t, filepath.Join(dir, "config.toml"), "state = \"/a\"\n")
		name := write(t, filepath.Join(dir, "config.d", "10.toml"), tt.text)
		c, problem, err := Folders(main)
		if err != nil || c.State != tt.state || !errors.Is(problem, errdefs.ErrInvalidArgument) ||
			!strings.Contains(problem.Error(), name) {
			t.Errorf("%s: state %q, problem %v, error %v", tt.name, c.State, problem, err)
		}
	}
	t.Setenv(Env, filepath.Join(t.TempDir(), "none.toml"))
	if _, _, err := Folders(""); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), Env) {
		t.Errorf("a file that the environment names and that is not there: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("state = \"/a\"\n[labels]\nmac = \"none\"\n"))
	f.Add([]byte("[sizing]\nreserve_mib = 96\n[timeouts]\nboot=\"1s\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c sandbox.Config
		if err := decode("fuzz", data, &c); err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("decode(%q): %v", data, err)
		}
	})
}
