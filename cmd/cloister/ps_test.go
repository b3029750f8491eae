// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/cmd/internal/config"
	"cloister/sandbox/jail"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/tests/testenv"
)

func TestPs(t *testing.T) {
	rollup := "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  2048 kB\nPss_Dirty: 1 kB\n"
	s := fakeSite(t, map[string]string{fmt.Sprintf("proc/%d/smaps_rollup", os.Getpid()): rollup})
	s.plant(t, "default", "one", alive(t), nil)
	s.plant(t, "k8s.io", strings.Repeat("ab", 32), alive(t), func(r *statedir.Record) {
		delete(r.Facts, "label")
		r.Effects = nil
	})
	s.plant(t, "moby", "gone", sys.Process{PID: 1 << 22, Start: 1}, func(r *statedir.Record) { r.Facts = nil })
	s.plant(t, "plain", "box", alive(t), func(r *statedir.Record) {
		r.Facts = map[string]string{"class": classProcess, "label": "system_u:system_r:cloister_container_t:s0:c3,c4"}
		r.Effects = []statedir.Effect{{Seq: 1, Kind: statedir.KindContainer, Path: "/run/x/box", Process: alive(t), Done: true}}
	})
	s.plant(t, "plain", "early", alive(t), func(r *statedir.Record) {
		r.Facts, r.Effects = map[string]string{"class": classProcess}, nil
	})
	s.plant(t, "plain", "over", alive(t), func(r *statedir.Record) {
		r.Facts = map[string]string{"class": classProcess}
		over := sys.Process{PID: 1 << 22, Start: 1}
		r.Effects = []statedir.Effect{{Seq: 1, Kind: statedir.KindContainer, Path: "/run/x/over", Process: over, Done: true}}
	})
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
	gone := s.plant(t, "default", "two", sys.Process{PID: 1 << 22, Start: 1}, func(r *statedir.Record) { r.Effects = nil })

	out, messages, err := s.command(t, "ps")
	if err != nil || !strings.Contains(out, "one") || strings.Contains(out, "two") || !strings.Contains(messages, "cloister gc") {
		t.Errorf("ps: %q, %q, %v", out, messages, err)
	}
	out, _, err = s.command(t, "ps", "--all", "--json")
	var rows []psRow
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 2 || rows[1].State != stateDead {
		t.Errorf("ps --all --json: %q, %v", out, err)
	}
	if len(rows) == 2 && rows[0].GuestMiB != 608 {
		t.Errorf("ps --json: the machine has %d MiB, want 608", rows[0].GuestMiB)
	}
	if out, _, err := s.command(t, "inspect", "one"); err != nil || !strings.Contains(out, `"memory_mib": 608`) {
		t.Errorf("inspect: %q, %v, want memory_mib as a number", out, err)
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"default/one\n", []string{"ps", "-q"}},
		{"default/one\ndefault/two\n", []string{"ps", "-aq"}},
		{"default/two\n", []string{"ps", "-aq", "--filter", "state=dead"}},
		{"", []string{"ps", "-aq", "--filter", "state=dead", "--filter", "id=on"}},
		{"default/one\n", []string{"ps", "-aq", "-f", "namespace=default", "-f", "id=on", "-f", "class=vm", "-f", "machine=q35"}},
	} {
		if out, _, err := s.command(t, tt.args...); err != nil || out != tt.want {
			t.Errorf("%q: %q, %v, want %q", tt.args, out, err, tt.want)
		}
	}
	if out, _, err := s.command(t, "ps", "-o", "yaml"); err != nil ||
		!strings.Contains(out, "\n  id: one\n") && !strings.Contains(out, "id: one\n") {
		t.Errorf("ps -o yaml: %q, %v", out, err)
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
	if _, there := os.Stat(gone.String()); err != nil || there != nil || out != "would take back default/two (class vm)\n" {
		t.Errorf("gc --dry-run: %q, %v, folder %v", out, err, there)
	}
	out, _, err = s.command(t, "gc")
	if _, there := os.Stat(gone.String()); err != nil || there == nil || out != "took back default/two (class vm)\n" {
		t.Errorf("gc: %q, %v, folder %v", out, err, there)
	}
	out, _, err = s.command(t, "gc")
	if err != nil || out != "nothing was left behind\n" {
		t.Errorf("gc again: %q, %v", out, err)
	}
}

// TestClassIsShown: what is said of plain containers names their class.
func TestClassIsShown(t *testing.T) {
	s := fakeSite(t, nil)
	for id, owner := range map[string]sys.Process{"box": alive(t), "gone": {PID: 1 << 22, Start: 1}} {
		s.plant(t, "default", id, owner, func(r *statedir.Record) {
			r.Facts = map[string]string{"class": classProcess, "label": "system_u:system_r:cloister_container_t:s0:c3,c4"}
			r.Effects = nil
		})
	}
	about, err := s.subject([]string{"box"}, "")
	if err != nil || about.name != "sandbox default/box (class process)" || about.level == nil || about.level.String() != "s0:c3,c4" {
		t.Errorf("why of a plain container is about %+v, %v, want its class and its level", about, err)
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"default/box\n", []string{"ps", "-q", "-f", "class=process"}},
		{"", []string{"ps", "-aq", "-f", "class=vm"}},
		{"process\n", []string{"inspect", "box", "--output", "{{.class}}"}},
		{"would take back default/gone (class process)\n", []string{"gc", "--dry-run"}},
		{"took back default/gone (class process)\n", []string{"gc"}},
	} {
		if out, _, err := s.command(t, tt.args...); err != nil || out != tt.want {
			t.Errorf("%q: %q, %v, want %q", tt.args, out, err, tt.want)
		}
	}
}

// TestInspectTellsTheLayers: inspect shows the parts of the jail that a sandbox was started with,
// and which version of Landlock the kernel had.
func TestInspectTellsTheLayers(t *testing.T) {
	s := fakeSite(t, nil)
	for id, on := range map[string]string{
		"whole":   jail.Config{}.On(7),
		"without": jail.Config{Disable: []jail.Part{jail.Seccomp}}.On(0),
	} {
		s.plant(t, "default", id, alive(t), func(r *statedir.Record) { r.Facts["jail"] = on })
	}
	for id, want := range map[string]string{
		"whole":   "users capabilities no_new_privs seccomp landlock:7 namespaces devices root limits\n",
		"without": "users capabilities no_new_privs namespaces devices root limits\n",
	} {
		if out, _, err := s.command(t, "inspect", id, "--output", "{{.facts.jail}}"); err != nil || out != want {
			t.Errorf("inspect of %s: %q, %v, want %q", id, out, err, want)
		}
		if out, _, err := s.command(t, "inspect", id); err != nil || !strings.Contains(out, `"jail": "`+strings.TrimSpace(want)+`"`) {
			t.Errorf("inspect of %s: %q, %v, want its jail", id, out, err)
		}
	}
}

// TestUnreadableRecord: ps, inspect, gc say of a damaged record what is there, and gc takes it
// back.
func TestUnreadableRecord(t *testing.T) {
	testenv.NeedRoot(t)
	s := fakeSite(t, nil)
	dir := s.plant(t, "default", "lost", alive(t), nil)
	if err := os.WriteFile(dir.Record(), []byte(`{"version":1,"effects":[{"kind":"pro`), 0o600); err != nil {
		t.Fatal(err)
	}
	left := exec.CommandContext(t.Context(), "sleep", "600")
	left.Env = []string{dir.Marker()}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	process := fmt.Sprintf("process %d qemu", left.Process.Pid)

	_, messages, err := s.command(t, "ps")
	if err != nil || !strings.Contains(messages, "1 more whose shim is dead") {
		t.Errorf("ps: %q, %v", messages, err)
	}
	out, _, err := s.command(t, "ps", "--all", "--json")
	var rows []psRow
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 1 ||
		rows[0].State != stateDead || !strings.Contains(rows[0].Problem, "cannot be read") {
		t.Errorf("ps --all: %q, %v", out, err)
	}
	out, _, err = s.command(t, "inspect", "lost")
	var found inspected
	if err != nil || json.Unmarshal([]byte(out), &found) != nil || found.Problem == "" ||
		len(found.Effects) != 1 || found.Effects[0].Process.PID != left.Process.Pid {
		t.Errorf("inspect: %q, %v", out, err)
	}
	out, _, err = s.command(t, "gc", "--dry-run")
	if err != nil || !strings.Contains(out, "would take back default/lost\n") ||
		!strings.Contains(out, process) || !strings.Contains(out, "cannot be read") {
		t.Errorf("gc --dry-run: %q, %v", out, err)
	}
	out, _, err = s.command(t, "gc")
	if _, there := os.Stat(dir.String()); err != nil || there == nil ||
		!strings.Contains(out, "took back default/lost\n") || !strings.Contains(out, process) {
		t.Errorf("gc: %q, %v, folder %v", out, err, there)
	}
	if err := <-ended; err == nil {
		t.Error("the process ended by itself")
	}
}

// TestUnreadableRecordOfLivingShim: a shim that lives keeps its sandbox, whatever its record says.
func TestUnreadableRecordOfLivingShim(t *testing.T) {
	s := fakeSite(t, nil)
	dir, err := statedir.New(s.config.State, "default", "kept")
	if err != nil {
		t.Fatal(err)
	}
	j, err := statedir.Create(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := os.WriteFile(dir.Record(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.command(t, "ps")
	if err != nil || !strings.Contains(out, stateUnknown) {
		t.Errorf("ps: %q, %v", out, err)
	}
	out, _, err = s.command(t, "gc")
	if err != nil || out != "nothing was left behind\n" {
		t.Errorf("gc: %q, %v", out, err)
	}
	if _, err := os.Stat(dir.String()); err != nil {
		t.Errorf("gc removed a living sandbox: %v", err)
	}
}

// TestBrokenConfig: a wrong key in the config stops no verb that needs only the folders.
func TestBrokenConfig(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	s.plant(t, "default", "two", sys.Process{PID: 1 << 22, Start: 1}, func(r *statedir.Record) { r.Effects = nil })
	file := filepath.Join(t.TempDir(), "config.toml")
	text := fmt.Sprintf("state = %q\nroot = %q\n[labels]\nmac = \"none\"\n[machine]\naccell = \"kvm\"\n", s.config.State, s.config.Root)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.Env, file)
	for _, tt := range []struct {
		want string
		args []string
	}{{"one", []string{"ps"}}, {"running", []string{"inspect", "one"}}, {"took back default/two", []string{"gc"}}} {
		out, messages, err := s.bare(t, tt.args...)
		if err != nil || !strings.Contains(out, tt.want) || !strings.Contains(messages, "accell") {
			t.Errorf("%q: %q, %q, %v", tt.args, out, messages, err)
		}
	}
}

// TestEnded: a machine that has ended is not called starting, and the reason is told.
func TestEnded(t *testing.T) {
	s := fakeSite(t, nil)
	gone := sys.Process{PID: 1 << 22, Start: 1}
	s.plant(t, "default", "killed", alive(t), func(r *statedir.Record) {
		r.Effects[1].Process = gone
		r.Ended = &statedir.Ended{At: created(), Reason: "qemu ended: signal: killed\nconsole: \x1b[2J"}
	})
	s.plant(t, "default", "unsaid", alive(t), func(r *statedir.Record) { r.Effects[1].Process = gone })
	s.plant(t, "default", "starting", alive(t), func(r *statedir.Record) { r.Effects = r.Effects[:1] })
	out, messages, err := s.command(t, "ps", "-o", "json")
	var rows []psRow
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 3 {
		t.Fatalf("ps: %q, %q, %v", out, messages, err)
	}
	for i, want := range []string{stateEnded, stateStarting, stateEnded} {
		if rows[i].State != want {
			t.Errorf("%s is %s, want %s", rows[i].ID, rows[i].State, want)
		}
	}
	_, messages, err = s.command(t, "ps")
	if err != nil || !strings.Contains(messages, "default/killed ended: qemu ended: signal: killed") ||
		strings.Contains(messages, "\x1b[") {
		t.Errorf("ps says %q, %v", messages, err)
	}
	out, _, err = s.command(t, "inspect", "killed")
	if err != nil || !strings.Contains(out, "\"ended\": {") || !strings.Contains(out, "signal: killed") {
		t.Errorf("inspect: %q, %v", out, err)
	}
}
