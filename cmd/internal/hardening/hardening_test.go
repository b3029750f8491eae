// SPDX-License-Identifier: Apache-2.0

package hardening

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

func TestMissing(t *testing.T) {
	tests := []struct {
		name string
		in   Report
		want []string
	}{
		{"all there", Report{Relro: FullRelro, PIE: true, NX: true, Canary: true, Fortify: true}, nil},
		{"rust needs no canary", Report{Relro: FullRelro, PIE: true, NX: true, Rust: true}, nil},
		{"nothing", Report{Relro: NoRelro}, []string{"full RELRO (has none)", "PIE", "NX stack", "stack canary", "FORTIFY"}},
		{"lazy", Report{Relro: PartialRelro, PIE: true, NX: true, Canary: true, Fortify: true}, []string{"full RELRO (has partial)"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, tt.in.Missing()); diff != "" {
			t.Errorf("%s: Missing() (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestCompiled compiles one program in different ways.
func TestCompiled(t *testing.T) {
	cc := testenv.NeedTool(t, "cc") // of gcc, with libc6-dev
	dir := t.TempDir()
	source := filepath.Join(dir, "a.c")
	text := "const char *panic = PANIC;\n#include <stdio.h>\n#include <string.h>\n" +
		"int main(int c, char **v) { char b[8]; strcpy(b, v[0]); printf(b); return b[c]; }\n"
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		flags []string
		want  Report
	}{
		{
			"hardened",
			[]string{"-O2", "-fPIE", "-pie", "-fstack-protector-all", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now"},
			Report{Relro: FullRelro, PIE: true, NX: true, Canary: true, Fortify: true},
		},
		{
			"bare",
			[]string{"-O0", "-fno-PIE", "-no-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-Wl,-z,norelro", "-Wl,-z,execstack"},
			Report{Relro: NoRelro},
		},
		{
			"lazy",
			[]string{"-O0", "-fPIE", "-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-Wl,-z,relro,-z,lazy"},
			Report{Relro: PartialRelro, PIE: true, NX: true},
		},
		{ // as Debian strips it: no compiler's mark is left
			"Rust",
			[]string{
				"-O0", "-fPIE", "-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-Wl,-z,relro,-z,now",
				"-UPANIC", `-DPANIC="/usr/src/rustc-1.85.0/library/std/src/io/mod.rs"`,
			},
			Report{Relro: FullRelro, PIE: true, NX: true, Rust: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "a")
			cmd := exec.CommandContext(t.Context(), cc, append([]string{"-DPANIC=\"-\""}, append(tt.flags, "-w", "-o", out, source)...)...)
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Skipf("compile: %v: %s", err, text)
			}
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := Read(f)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Read (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Read(bytes.NewReader(data))
		if err != nil && r.PIE {
			t.Errorf("Read gave %+v with error %v", r, err)
		}
	})
}
