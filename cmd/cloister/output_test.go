// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cloister/cmd/internal/config"
	"cloister/tests/testenv"
)

func TestPrintTemplate(t *testing.T) {
	rows := []psRow{{Namespace: "default", ID: "one", State: "running", Pid: 12345678}, {Namespace: "moby", ID: "two"}}
	for _, tt := range []struct {
		text  string
		value any
		want  string
	}{
		{"{{.namespace}}/{{.id}}", rows, "default/one\nmoby/two\n"},
		{"{{.pid}}", rows[:1], "12345678\n"},
		{"{{if .pid}}{{.id}}{{end}}", rows, "one\n\n"},
		{"{{json .pssBytes}}", rows[:1], "{\"qemu\":0,\"shim\":0,\"virtiofsd\":0}\n"},
		{"{{.version}}", version{Version: "1.2"}, "1.2\n"},
		{"{{.id}}", []psRow{}, ""},
	} {
		var out bytes.Buffer
		if err := printTemplate(&out, tt.text, tt.value); err != nil || out.String() != tt.want {
			t.Errorf("%s = %q, %v, want %q", tt.text, out.String(), err, tt.want)
		}
	}
	if err := printTemplate(&bytes.Buffer{}, "{{index .pid 3}}", rows); err == nil {
		t.Error("a template that fails gave no error")
	}
}

// TestOutputForms: each verb with --output has all its forms, and a template is one.
func TestOutputForms(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	for _, tt := range []struct{ form, want string }{
		{"{{.id}}", "one\n"}, {"yaml", "- accel: kvm\n"}, {"json", "[\n  {\n"}, {"table", "NAMESPACE"},
	} {
		out, _, err := s.command(t, "ps", "--output", tt.form)
		if err != nil || !strings.HasPrefix(out, tt.want) {
			t.Errorf("ps --output %s = %q, %v, want %q", tt.form, out, err, tt.want)
		}
	}
	if out, _, err := s.command(t, "inspect", "one", "-o", "{{.state}}"); err != nil || out != "running\n" {
		t.Errorf("inspect -o {{.state}} = %q, %v", out, err)
	}
}

// TestNoColour: no verb prints a control sequence where there is no terminal, NO_COLOR or not.
func TestNoColour(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	for _, value := range []string{"", "1"} {
		t.Setenv("NO_COLOR", value)
		for _, args := range [][]string{{"ps"}, {"check"}, {"labels"}, {"top", "--interval", "100ms"}, {"events"}, {"--help"}} {
			out, messages, _ := s.command(t, args...) // check has findings on a fake host
			if strings.Contains(out+messages, "\x1b") {
				t.Errorf("NO_COLOR=%q %q prints a control sequence: %q", value, args, out)
			}
		}
	}
}

// TestExitStatuses makes one command end with each status, and reads the same list in the manual
// pages and in the document.
func TestExitStatuses(t *testing.T) {
	s := fakeSite(t, nil)
	for _, tt := range []struct {
		want int
		args []string
	}{
		{0, []string{"version"}},
		{0, []string{"--version"}},
		{statusFailed, []string{"inspect", "nothing"}},
		{statusUsage, []string{"ps", "--nothing"}},
	} {
		_, _, err := s.command(t, tt.args...)
		if got := status(&bytes.Buffer{}, err); got != tt.want {
			t.Errorf("%q: status %d, want %d", tt.args, got, tt.want)
		}
	}
	broken := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(broken, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.Env, broken)
	_, _, err := s.bare(t, "check")
	if got := status(&bytes.Buffer{}, err); got != statusFinding {
		t.Errorf("check of a broken config: status %d, want %d", got, statusFinding)
	}
	text, err := os.ReadFile(filepath.Join(testenv.Tree(t), "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	manual := numbers(regexp.MustCompile(`(?m)^  (\d)  `), statusText)
	page := numbers(regexp.MustCompile(`(?m)^\| (\d) \|`), string(text))
	if want := map[string]bool{"0": true, "1": true, "2": true, "3": true}; !maps.Equal(manual, want) || !maps.Equal(page, want) {
		t.Errorf("statuses in the manual %v, in docs/commands.md %v, want %v", manual, page, want)
	}
}

func numbers(pattern *regexp.Regexp, text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}
