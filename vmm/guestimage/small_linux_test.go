// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestCompileCounterCountsForATerminal: no line is written beside the count, the count never says
// that all is done before the end, and it ends after an error too.
func TestCompileCounterCountsForATerminal(t *testing.T) {
	for _, failed := range []error{nil, errors.New("make: exit status 2")} {
		var lines strings.Builder
		var counts []string
		c := newCompileCounter(progress{&lines}, func(done, about int) { counts = append(counts, fmt.Sprint(done, " of ", about)) })
		for _, text := range []string{"  CC a.o\n  AS b.o\n  AR c.a\n", strings.Repeat("  CC d.o\n", smallFiles)} {
			c.next = time.Time{}
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
		}
		c.end(failed)
		n := smallFiles + 2
		want := []string{fmt.Sprint(2, " of ", smallFiles), fmt.Sprint(n, " of ", n+1), fmt.Sprint(n, " of ", n)}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		if got := strings.Count(lines.String(), "\n"); got > 1 || (got == 1) != (failed == nil) {
			t.Errorf("lines after %v: %q", failed, lines.String())
		}
	}
}

// TestSourceEdit changes the one place, and refuses a source that has it never or twice.
func TestSourceEdit(t *testing.T) {
	e := sourceEdit{file: "drivers/f.c", old: "while (1);\n", with: "while (0);\n"}
	for text, want := range map[string]string{
		"a\nwhile (1);\nb\n":       "a\nwhile (0);\nb\n",
		"a\nb\n":                   "kernel source: drivers/f.c has the text to change 0 times, want once",
		"while (1);\nwhile (1);\n": "kernel source: drivers/f.c has the text to change 2 times, want once",
	} {
		work := t.TempDir()
		path := filepath.Join(work, e.file)
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		err := e.apply(work)
		got, read := os.ReadFile(path)
		if read != nil {
			t.Fatal(read)
		}
		if err != nil {
			if string(got) != text {
				t.Errorf("a refused source became %q", got)
			}
			got = []byte(err.Error())
		}
		if string(got) != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// TestCompileCounterWritesLinesElsewhere: a log has a line now and then, and no control sequence.
func TestCompileCounterWritesLinesElsewhere(t *testing.T) {
	var lines strings.Builder
	c := newCompileCounter(progress{&lines}, nil)
	for range 3 {
		if _, err := io.WriteString(c, "  CC a.o\n"); err != nil {
			t.Fatal(err)
		}
		if c.files == 2 {
			c.next = time.Time{}
		}
	}
	c.end(nil)
	if want := "guest image: compiled 3 files in 0s\nguest image: compiled 3 files in 0s\n"; lines.String() != want {
		t.Errorf("lines: %q, want %q", lines.String(), want)
	}
}
