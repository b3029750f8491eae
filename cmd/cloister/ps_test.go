// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/statedir"
)

func TestPs(t *testing.T) {
	rollup := "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  2048 kB\nPss_Dirty: 1 kB\n"
	s := fakeSite(t, map[string]string{fmt.Sprintf("proc/%d/smaps_rollup", os.Getpid()): rollup})
	s.plant(t, "default", "one", alive(t), nil)
	s.plant(t, "k8s.io", strings.Repeat("ab", 32), alive(t), func(r *statedir.Record) {
		delete(r.Facts, "label")
		r.Effects = nil
	})
	s.plant(t, "moby", "gone", statedir.Process{Pid: 1 << 22, StartTime: 1}, func(r *statedir.Record) { r.Facts = nil })
	boxes, err := s.sandboxes()
	if err != nil {
		t.Fatal(err)
	}
	var rows []psRow
	for _, b := range boxes {
		row := s.row(b, b.state(), created().Add(90*time.Second))
		if row.Pid == os.Getpid() {
			row.Pid = 4242
		}
		rows = append(rows, row)
	}
	var out bytes.Buffer
	if err := printPs(&out, rows); err != nil {
		t.Fatal(err)
	}
	golden(t, "ps.txt", out.String())
}

func TestPsInspectGC(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), func(r *statedir.Record) {
		r.Phases = []statedir.Phase{{Name: "plan", DurationMs: 10}, {Name: "kernel", OffsetMs: 10, DurationMs: 90}}
	})
	gone := s.plant(t, "default", "two", statedir.Process{Pid: 1 << 22, StartTime: 1}, func(r *statedir.Record) { r.Effects = nil })

	out, messages, err := s.command(t, "ps")
	if err != nil || !strings.Contains(out, "one") || strings.Contains(out, "two") || !strings.Contains(messages, "cloister gc") {
		t.Errorf("ps: %q, %q, %v", out, messages, err)
	}
	out, _, err = s.command(t, "ps", "--all", "--json")
	var rows []psRow
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 2 || rows[1].State != stateDead {
		t.Errorf("ps --all --json: %q, %v", out, err)
	}
	out, _, err = s.command(t, "inspect", "one")
	var found inspected
	if err != nil || json.Unmarshal([]byte(out), &found) != nil || found.State != stateRunning || len(found.Phases) != 2 {
		t.Errorf("inspect: %q, %v", out, err)
	}
	out, _, err = s.command(t, "inspect", "one", "--phases")
	if err != nil {
		t.Error(err)
	}
	golden(t, "phases.txt", out)
	out, _, err = s.command(t, "gc", "--dry-run")
	if _, there := os.Stat(gone.String()); err != nil || there != nil || out != "would take back default/two\n" {
		t.Errorf("gc --dry-run: %q, %v, folder %v", out, err, there)
	}
	out, _, err = s.command(t, "gc")
	if _, there := os.Stat(gone.String()); err != nil || there == nil || out != "took back default/two\n" {
		t.Errorf("gc: %q, %v, folder %v", out, err, there)
	}
	out, _, err = s.command(t, "gc")
	if err != nil || out != "nothing was left behind\n" {
		t.Errorf("gc again: %q, %v", out, err)
	}
}
