// SPDX-License-Identifier: Apache-2.0

package child

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLastLines(t *testing.T) {
	for _, test := range []struct {
		name, in     string
		lines, limit int
		want         string
	}{
		{"nothing", "", 3, 100, ""},
		{"all", "a\nb\n", 3, 100, "a\nb"},
		{"last", "a\nb\nc\n\n", 2, 100, "b\nc"},
		{"cut", "abcdef", 2, 3, "def"},
		{"carriage returns", "a\r\nb\r\n", 2, 100, "a\nb"},
		{"terminal control", "\x1b[2J\x1b[1;31mred\x1b[0m\x1bc\x07\x9b", 2, 100, "red??"},
		{"unfinished control", "a\x1b[1;3", 2, 100, "a"},
		{"only escape", "\x1b", 2, 100, ""},
		{"beyond ASCII", "\u202eevil é", 2, 100, "?evil ?"},
		{"tab", "a\tb", 1, 100, "a b"},
	} {
		if got := LastLines([]byte(test.in), test.lines, test.limit); got != test.want {
			t.Errorf("%s: LastLines(%q, %d, %d) = %q, want %q", test.name, test.in, test.lines, test.limit, got, test.want)
		}
	}
}

func FuzzLastLines(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\nc"), 2, 10)
	f.Add([]byte("\x1b["), 1, 1)
	f.Fuzz(func(t *testing.T, log []byte, lines, limit int) {
		lines, limit = 1+lines&31, 1+limit&4095
		got := LastLines(log, lines, limit)
		if len(got) > limit || strings.Count(got, "\n") >= lines || !utf8.ValidString(got) {
			t.Errorf("LastLines(%q, %d, %d) = %q", log, lines, limit, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }); i >= 0 {
			t.Errorf("LastLines(%q) = %q, with a control character at %d", log, got, i)
		}
	})
}

// FuzzRecorder writes in pieces and wants the log bounded, its end and the tail
// intact.
func FuzzRecorder(f *testing.F) {
	f.Add([]byte("some text, then more of it"), 3, 10)
	f.Add(bytes.Repeat([]byte("0123456789"), 500), 700, 100)
	f.Fuzz(func(t *testing.T, text []byte, piece, limit int) {
		piece, limit = 1+piece&1023, 64+limit&4095
		log, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = log.Close() }()
		r, err := Record(io.NopCloser(pieces{bytes.NewReader(text), piece}), log, limit)
		if err != nil {
			t.Fatal(err)
		}
		r.Wait()
		got, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > limit {
			t.Errorf("log has %d bytes, want at most %d", len(got), limit)
		}
		if end := text[len(text)-min(len(text), limit/2):]; !bytes.HasSuffix(got, end) {
			t.Errorf("log ends in %q, want %q", got, end)
		}
		if len(text) <= limit && !bytes.Equal(got, text) {
			t.Errorf("log = %q, want all of %q", got, text)
		}
		if tail := r.tail.Bytes(); !bytes.HasSuffix(text, tail) || len(tail) < min(len(text), limit/2) {
			t.Errorf("tail = %q of %q", tail, text)
		}
	})
}

// pieces reads so many bytes at a time.
type pieces struct {
	io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

func TestLastLinesNamesPanic(t *testing.T) {
	text := "[1.0] Kernel panic - not syncing: no init\n" + strings.Repeat("[1.1]  ? trace\n", 50)
	r, err := Record(io.NopCloser(strings.NewReader(text)), nil, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	r.Wait()
	if got := r.LastLines(); !strings.HasPrefix(got, "Kernel panic - not syncing: no init\n[...]\n") {
		t.Errorf("LastLines = %q, want the reason first", got)
	}
}

func TestRecordRefuses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	if _, err := Record(io.NopCloser(strings.NewReader("")), w, 100); err == nil {
		t.Error("Record into a pipe = nil, want an error")
	}
}

func TestPrivateLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Private(dir, func(l *net.UnixListener, _ string) error { return l.Close() }); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
