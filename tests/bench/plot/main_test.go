// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

var update = flag.Bool("update", false, "draw docs/performance.svg anew")

func TestPictureIsOfTheFigures(t *testing.T) {
	docs := filepath.Join(testenv.Tree(t), "docs")
	data, err := os.ReadFile(filepath.Join(docs, "performance.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := draw(data)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(docs, "performance.svg")
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("docs/performance.svg is not of docs/performance.json: go test ./tests/bench/plot -update")
	}
}

func TestDrawWithoutFigures(t *testing.T) {
	for _, text := range []string{"", "{}", `{"times_ms": {"cold": {"median": 0}}}`, `{"times_ms": 3}`} {
		if picture, err := draw([]byte(text)); err == nil {
			t.Errorf("draw(%q) = %q, want an error", text, picture)
		}
	}
	picture, err := draw([]byte(`{"times_ms": {"cold": {"median": 20}, "bare": {"median": 10}}}`))
	if err != nil || strings.Count(picture, "<rect") != 3 || !strings.Contains(picture, ">20 ms<") {
		t.Errorf("draw = %s, %v, want two bars on a ground", picture, err)
	}
	// Sums of a phase's programs, to the scale of both kinds: the longest bar is the cold start's.
	picture, err = draw([]byte(`{"cpu_ms": {"cold": {"kernel: guest": {"median": 30}, "kernel: QEMU": {"median": 10}},
		"template": {"kernel: guest": {"median": 20}}}}`))
	if err != nil || !strings.Contains(picture, `width="480.0"`) || !strings.Contains(picture, `width="240.0"`) ||
		!strings.Contains(picture, ">40 ms<") {
		t.Errorf("draw = %s, %v, want bars of 40 and 20 ms to one scale", picture, err)
	}
}
