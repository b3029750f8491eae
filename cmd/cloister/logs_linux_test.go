// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/statedir"
)

func TestVisible(t *testing.T) {
	var out bytes.Buffer
	n, err := visible{&out}.Write([]byte("a\tb\r\n\x1b]0;owned\x07\x9bx\x7f\n"))
	if want := "a\tb\n^[]0;owned^G?x^?\n"; err != nil || n != 19 || out.String() != want {
		t.Errorf("Write = %d, %v, %q, want %q", n, err, out.String(), want)
	}
}

func TestLogs(t *testing.T) {
	s := fakeSite(t, nil)
	dir := s.plant(t, "default", "one", alive(t), nil)
	if _, _, err := s.command(t, "logs", "one"); err == nil || !strings.Contains(err.Error(), "no such log yet") {
		t.Errorf("logs without a console: %v", err)
	}
	for name, text := range map[string]string{statedir.Console: "console\n", statedir.QEMULog: "qemu\n", statedir.VirtiofsdLog: "files\n"} {
		file := filepath.Join(dir.Own(), name)
		if err := errors.Join(os.MkdirAll(dir.Own(), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for flag, want := range map[string]string{"--raw": "console\n", "--qemu": "qemu\n", "--virtiofsd": "files\n"} {
		if out, _, err := s.command(t, "logs", flag, "one"); err != nil || out != want {
			t.Errorf("logs %s: %q, %v, want %q", flag, out, err, want)
		}
	}
}

func TestSeekTail(t *testing.T) {
	many := strings.Repeat("0123456789\n", 1<<13)
	for _, tt := range []struct {
		text  string
		lines int
		want  string
	}{
		{"a\nb\nc\n", -1, "a\nb\nc\n"},
		{"a\nb\nc\n", 0, ""},
		{"a\nb\nc\n", 1, "c\n"},
		{"a\nb\nc", 1, "c"},
		{"a\nb\nc\n", 2, "b\nc\n"},
		{"a\nb\nc\n", 3, "a\nb\nc\n"},
		{"a\nb\nc\n", 9, "a\nb\nc\n"},
		{"", 3, ""},
		{"\n", 1, "\n"},
		{many, 1 << 12, many[:len(many)/2]},
	} {
		name := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := printLog(t.Context(), &out, name, tt.lines, false); err != nil || out.String() != tt.want {
			t.Errorf("the last %d lines of %.20q: %d bytes, %v, want %d", tt.lines, tt.text, out.Len(), err, len(tt.want))
		}
	}
}

// TestFollow appends to a log, lets it start over, and removes it, each when the one before has
// been seen.
func TestFollow(t *testing.T) {
	name := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(name, []byte("first line that is long\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := printLog(ctx, out, name, -1, true)
		_ = out.CloseWithError(err) // else a read below would wait for good
		done <- err
	}()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	expect("first line that is long\n")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("second\n"); err != nil {
		t.Fatal(err)
	}
	expect("second\n")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("printLog: %v", err)
	}
}
