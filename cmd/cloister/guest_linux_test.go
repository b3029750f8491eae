// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/console"
)

// TestCounterDrawsOnlyOnATerminal: pipes and files get no control sequence. A terminal gets one
// line that is drawn again, and erased at the end.
func TestCounterDrawsOnlyOnATerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if counter(&bytes.Buffer{}) != nil || counter(file) != nil {
		t.Error("a counter for what is no terminal")
	}
	pty, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pty.Close() }()
	screen, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	count := counter(screen)
	if count == nil {
		t.Fatal("no counter for a terminal")
	}
	count(942, 1884)
	count(1884, 1884)
	if err := screen.Close(); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 1000)
	n, err := pty.Read(shown)
	if err != nil {
		t.Fatal(err)
	}
	const want = "\rguest image: compiling the kernel: 942 of about 1884 files, 50%\x1b[K\r\x1b[K"
	if got := string(shown[:n]); !strings.HasPrefix(want, got) || n < 60 {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
}
