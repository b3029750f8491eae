// SPDX-License-Identifier: Apache-2.0

package virtiofsd

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// plain starts commands as they are.
type plain struct{}

func (plain) Start(cmd *exec.Cmd) error { return cmd.Start() }

// folder opens a folder to serve.
func folder(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	source := folder(t, dir)
	for _, test := range []struct {
		name string
		c    Config
		says string
	}{
		{"no starter", Config{Dir: dir, Source: source}, "no Starter"},
		{"no folder", Config{Starter: plain{}, Source: source}, "no Dir"},
		{"no source", Config{Starter: plain{}, Dir: dir, Binary: "true", Kind: KindC}, "no Source"},
		{"no binary", Config{Starter: plain{}, Dir: dir, Source: source, Binary: "/none"}, "install it"},
		{"another binary", Config{Starter: plain{}, Dir: dir, Source: source, Binary: "true"}, "neither the Rust nor the C virtiofsd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Start(t.Context(), test.c); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Start = %v, want it to say %q", err, test.says)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

// TestServerThatExitsAtOnce has a server that does not start at all.
func TestServerThatExitsAtOnce(t *testing.T) {
	p, err := Start(t.Context(), Config{Starter: plain{}, Dir: t.TempDir(), Source: folder(t, t.TempDir()), Binary: "false", Kind: KindC})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	var exit *exec.ExitError
	if err := p.Err(); !errors.As(err, &exit) {
		t.Errorf("Err = %v, want an exit status", err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("Stop after the end = %v, want nil", err)
	}
}

// TestServerEndsWithItsPeer checks that a real server goes when this side hangs up, and
// stops when it is told.
func TestServerEndsWithItsPeer(t *testing.T) {
	testenv.NeedRoot(t)
	binary := testenv.NeedVirtiofsd(t)
	start := func() *Process {
		p, err := Start(t.Context(), Config{Binary: binary, Starter: plain{}, Dir: t.TempDir(), Source: folder(t, t.TempDir())})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := start()
	p.HandedOver()
	<-p.Done()

	p = start()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil {
		t.Errorf("Err after Stop = %v, want nil", err)
	}
}
