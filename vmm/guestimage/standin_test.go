// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// TestStandInIsAnELFLibrary reads a stand-in as any program would.
func TestStandInIsAnELFLibrary(t *testing.T) {
	data, err := standIn("libx.so.1", []elf.Symbol{
		{Name: "one", Version: "X_1"}, {Name: "two", Version: "X_2"}, {Name: "three", Version: "X_1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_DYN || len(f.Progs) != 4 || f.Progs[1].Off%0x1000 != 0 || f.Progs[1].Vaddr != f.Progs[1].Off {
		t.Errorf("file %+v, segments %+v", f.FileHeader, f.Progs)
	}
}

// TestStandInSatisfiesTheLoader runs the host's crun with a stand-in for libsystemd. The loader
// finds every symbol in its version, says nothing, and loads nothing that only libsystemd needs.
func TestStandInSatisfiesTheLoader(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the stand-in is for x86-64")
	}
	crun := testenv.NeedTool(t, testenv.Crun)
	const name = systemd
	libs, err := closure("/", crun)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(libs, func(l library) bool { return l.name == name }) {
		t.Skipf("this crun is not linked with %s", name)
	}
	dir := t.TempDir()
	for _, l := range libs {
		if strings.HasPrefix(l.name, "libgcrypt") {
			t.Errorf("the image would have %s, which libsystemd alone needs", l.name)
		}
		if l.name != name {
			continue
		}
		if l.instead == nil {
			t.Fatalf("%s is not replaced", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), l.instead, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), crun, "--version")
	cmd.Env = []string{"LD_LIBRARY_PATH=" + dir, "LD_BIND_NOW=1"}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "crun version") {
		t.Errorf("crun --version: %v: %s", err, out)
	}
	cmd = exec.CommandContext(t.Context(), crun, "--version")
	cmd.Env = []string{"LD_LIBRARY_PATH=" + dir, "LD_TRACE_LOADED_OBJECTS=1", "LD_WARN=1", "LD_BIND_NOW=1", "LD_VERBOSE=1"}
	traced, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(traced, []byte(filepath.Join(dir, name))) || bytes.Contains(traced, []byte("libgcrypt")) ||
		bytes.Contains(traced, []byte("undefined")) {
		t.Errorf("the loader says %v:\n%s", err, traced)
	}
}
