// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"cloister/cmd/internal/config"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/sandbox"
	"cloister/sandbox/statedir"
	"cloister/sys"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// fakeSite is a host of files: name, below its root, and content.
func fakeSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &site{
		root: root, host: lsm.Host{Proc: filepath.Join(root, "proc"), SELinux: filepath.Join(root, "sys/fs/selinux")},
		profiles: apparmor.Host{
			Proc: filepath.Join(root, "proc"), Security: filepath.Join(root, "sys/kernel/security/apparmor"),
			Module: filepath.Join(root, "sys/module/apparmor"),
		},
		config: withDefaults(sandbox.Config{State: filepath.Join(root, "run/cloister"), Root: filepath.Join(root, "var/lib/cloister")}),
	}
}

// created is when the sandboxes of the tests were made.
func created() time.Time { return time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC) }

// alive is a process that runs: this one.
func alive(t *testing.T) sys.Process {
	t.Helper()
	p, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// plant writes a record.
func (s *site) plant(t *testing.T, namespace, id string, owner sys.Process, change func(*statedir.Record)) statedir.Dir {
	t.Helper()
	dir, err := statedir.New(s.config.State, namespace, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir.String(), 0o755); err != nil {
		t.Fatal(err)
	}
	r := statedir.Record{
		Version: 2, Namespace: dir.Namespace(), ID: dir.ID(), BootID: "boot", Owner: owner, Created: created(),
		Facts: map[string]string{
			"machine": "q35", "accel": "kvm", "kernel": "6.1.0", "label": "system_u:system_r:cloister_qemu_t:s0:c1,c2", "memory_mib": "608",
			"start": "template 0123456789abcdef0123456789abcdef",
		},
		Effects: []statedir.Effect{
			{Seq: 1, Kind: statedir.KindProcess, Path: "virtiofsd", Process: owner, Done: true},
			{Seq: 2, Kind: statedir.KindProcess, Path: "qemu", Process: owner, Done: true},
		},
		Next: 3,
	}
	if change != nil {
		change(&r)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Record(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs a command line with the site's settings and gives what it wrote.
func (s *site) command(t *testing.T, args ...string) (out, messages string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	text := "state = \"" + s.config.State + "\"\nroot = \"" + s.config.Root + "\"\n[labels]\nmac = \"none\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.Env, file)
	return s.bare(t, args...)
}

// bare is command with the config that the environment names.
func (*site) bare(t *testing.T, args ...string) (out, messages string, err error) {
	t.Helper()
	var o, m bytes.Buffer
	err = run(t.Context(), stdio{&o, &m}, args)
	return o.String(), m.String(), err
}

func TestFind(t *testing.T) {
	s := fakeSite(t, nil)
	for _, name := range []string{"default/one", "default/oneself", "k8s.io/abc123", "k8s.io/abd456", "moby/one"} {
		namespace, id, _ := strings.Cut(name, "/")
		s.plant(t, namespace, id, alive(t), nil)
	}
	tests := []struct {
		in, want string
		wantErr  error
	}{
		{"default/one", "default/one", nil},
		{"ones", "default/oneself", nil},
		{"abc", "k8s.io/abc123", nil},
		{"k8s.io/abd", "k8s.io/abd456", nil},
		{"ab", "", errdefs.ErrInvalidArgument},
		{"one", "", errdefs.ErrInvalidArgument},
		{"default", "", errdefs.ErrNotFound},
		{"", "", errdefs.ErrNotFound},
		{"../x", "", errdefs.ErrNotFound},
	}
	for _, tt := range tests {
		got, err := s.find(tt.in)
		if !errors.Is(err, tt.wantErr) {
			t.Errorf("find(%q): %v, want %v", tt.in, err, tt.wantErr)
		}
		if err == nil && got.name() != tt.want {
			t.Errorf("find(%q) = %s, want %s", tt.in, got.name(), tt.want)
		}
	}
}

// TestUsage: every verb explains itself, and a wrong command line has a status of its own.
func TestUsage(t *testing.T) {
	var every func(c *cobra.Command, path []string)
	every = func(c *cobra.Command, path []string) {
		var out bytes.Buffer
		if err := run(t.Context(), stdio{&out, &out}, append(path, "--help")); err != nil || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%q --help: %v, says %q", path, err, out.String())
		}
		if len(path) > 0 && (c.Short == "" || len(c.Short) > 80) {
			t.Errorf("%q: its line has %d characters, want 1 to 80", path, len(c.Short))
		}
		for _, sub := range c.Commands() {
			every(sub, append(slices.Clone(path), sub.Name()))
		}
	}
	every(newRoot(stdio{io.Discard, io.Discard}), nil)
	for _, args := range [][]string{
		{"nothing"},
		{},
		{"ps", "x"},
		{"logs"},
		{"inspect", "a", "b"},
		{"ps", "--what"},
		{"policy"},
		{"install", "x"},
		{"ps", "--output", "xml"},
		{"ps", "--output", "{{.id"},
		{"top", "--sort", "luck"},
		{"top", "--interval", "1ms"},
		{"ps", "--filter", "age=3"},
		{"logs", "--tail", "x", "y"},
	} {
		var out, messages bytes.Buffer
		err := run(t.Context(), stdio{&out, &out}, args)
		if code := status(&messages, err); code != statusUsage || !strings.Contains(messages.String(), "--help") {
			t.Errorf("%q: status %d, says %q, want %d and where help is", args, code, messages.String(), statusUsage)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
		says string
	}{
		{nil, 0, ""},
		{exitError(42), 42, ""},
		{errors.New("broken"), statusFailed, "cloister: broken\n"},
		{notWell("%d clashes", 2), statusFinding, "cloister: 2 clashes\n"},
	} {
		var out bytes.Buffer
		if got := status(&out, tt.err); got != tt.want || out.String() != tt.says {
			t.Errorf("status(%v) = %d, %q, want %d, %q", tt.err, got, out.String(), tt.want, tt.says)
		}
	}
}

// TestManuals: each verb has a page with the text of its help, and no line of it is a request that
// troff does not know.
func TestManuals(t *testing.T) {
	folder := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), stdio{&out, &out}, []string{"man", folder}); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(folder + "/*.1")
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") &&
				!slices.Contains([]string{".TH", ".SH", ".TP", ".B", ".BR", ".nf", ".fi"}, strings.Fields(line)[0]) {
				t.Errorf("%s: %q", filepath.Base(page), line)
			}
		}
	}
	if text, err := os.ReadFile(folder + "/cloister-policy-fcontext-add.1"); err != nil ||
		!strings.Contains(string(text), "\n.B \\-\\-dry\\-run\n") {
		t.Errorf("a page of a flag: %v\n%s", err, text)
	}
}

// TestCompletion: the names of sandboxes complete the verbs that take one.
func TestCompletion(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	for _, args := range [][]string{{"inspect", ""}, {"logs", ""}, {"why", "def"}, {"debug", ""}} {
		out, _, err := s.command(t, append([]string{"__complete"}, args...)...)
		if err != nil || !strings.Contains(out, "default/one\n") {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, err := s.command(t, "completion", shell); err != nil || !strings.Contains(out, "cloister") {
			t.Errorf("completion %s: %d bytes, %v", shell, len(out), err)
		}
	}
}

func TestAge(t *testing.T) {
	for in, want := range map[time.Duration]string{
		-time.Second: "0s", 3 * time.Second: "3s", 61 * time.Second: "1m01s", 3*time.Hour + 4*time.Minute: "3h04m", 80 * time.Hour: "3d",
	} {
		if got := age(in); got != want {
			t.Errorf("age(%v) = %q, want %q", in, got, want)
		}
	}
}
