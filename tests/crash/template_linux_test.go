// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/sandbox/template"
	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// fromTemplates has sandboxes start from templates.
const fromTemplates = "[machine]\nfile_server = \"needed\"\n[template]\nmode = \"manual\"\n"

// crashCloister builds the command line that kills itself at a step it is told.
func crashCloister(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "cloister")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "crashtest", "-o", out, "./cmd/cloister")
	cmd.Dir = testenv.Tree(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build cloister with the tag crashtest: %v\n%s", err, text)
	}
	return out
}

// builder runs `cloister template build`, which tells its steps and dies at one of them.
type builder struct {
	*stage
	program string
}

// build dies at a step, or at none. It gives the steps that were reached.
func (b *builder) build(t *testing.T, at string) (steps []string, err error) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "template.at"), []byte(at), 0o600))
	cmd := b.Place.Command(t.Context(), b.program, "--config", filepath.Join(b.Place.Dir, "cloister.toml"), "template", "build")
	cmd.Env = append(slices.Clone(b.Env), "CLOISTER_CRASHTEST="+dir)
	out, err := cmd.CombinedOutput()
	data, readErr := os.ReadFile(filepath.Join(dir, "template.steps"))
	if readErr != nil {
		t.Fatalf("no steps: %v: %v\n%s", readErr, err, out)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), err
}

// site runs the command line with the bed's configuration.
func (s *stage) site(t *testing.T, args ...string) string {
	t.Helper()
	return s.cloister(t, append([]string{"--config", filepath.Join(s.Place.Dir, "cloister.toml")}, args...)...)
}

// templates are those of the bed.
func (s *stage) templates(t *testing.T) []template.Entry {
	t.Helper()
	list, err := template.NewStore(filepath.Join(s.Place.Dir, "cloister", "templates")).List()
	must(t, err)
	return list
}

// TestTemplateBuilderKilledAtEveryStep kills who builds a template after each of its steps.
// TestShimKilledAtEveryStep goes through what is between them: a builder's effects are a sandbox's.
// `cloister gc` takes back the rest, and there is a template only once the step that keeps it is
// over.
func TestTemplateBuilderKilledAtEveryStep(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{Cloister: fromTemplates})}
	b := &builder{s, crashCloister(t)}
	steps, err := b.build(t, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"promise reached", "draft done", "save reached", "keep reached", "folder undone"} {
		if !slices.Contains(steps, want) {
			t.Errorf("no step %q among %q", want, steps)
		}
	}
	s.site(t, "template", "gc", "--all")
	before := s.Look(t)
	steps = slices.DeleteFunc(steps, func(step string) bool {
		return !strings.HasSuffix(step, " reached") && !strings.HasPrefix(step, "draft ")
	})
	kept := slices.Index(steps, "keep reached")
	if testing.Short() {
		steps = nil
	}
	for i, step := range steps {
		t.Run(fmt.Sprintf("%02d %s", i, step), func(t *testing.T) {
			reached, err := b.build(t, step)
			exit := (*exec.ExitError)(nil)
			if !errors.As(err, &exit) || !slices.Contains(reached, step) {
				t.Fatalf("the builder ended with %v after %q, want it killed at %q", err, reached, step)
			}
			s.site(t, "gc")
			if n := len(s.templates(t)); n != 0 != (i >= kept) {
				t.Errorf("%d templates, killed at step %d of which %d keeps it", n, i, kept)
			}
			s.site(t, "template", "gc", "--all")
			s.NothingLeft(t, before)
		})
	}
	t.Logf("the builder was killed at %d steps", len(steps))
}

// TestTemplateStartKilledAtEveryStep kills the shim of a sandbox that starts from a template, from
// where it begins to copy the memory to where the guest is the sandbox's. The template stays good.
func TestTemplateStartKilledAtEveryStep(t *testing.T) {
	killedStarts(t, newStageWith(t, host.Options{Cloister: fromTemplates}))
}

// TestCopyOnWriteStartKilledAtEveryStep does the same where the template's memory is mapped. What
// containerd runs after a dead shim removes its note of that memory.
func TestCopyOnWriteStartKilledAtEveryStep(t *testing.T) {
	s := newStageWith(t, host.Options{Cloister: fromTemplates, Config: bed.Disks(t)})
	s.UseDisks(t)
	killedStarts(t, s)
}

// killedStarts kills the shim after each step of a start from a template.
func killedStarts(t *testing.T, s *stage) {
	t.Helper()
	s.site(t, "template", "build")
	before := s.Look(t)
	s.Must(t, s.Args("whole", []string{"--detach"}, "sleep", "1000")...)
	if from := s.started(t, "whole"); !strings.HasPrefix(from, "template ") {
		t.Fatalf("started from %q, want a template", from)
	}
	s.Remove(t, "whole")
	steps := s.steps(t, "whole")
	first, last := slices.Index(steps, "memory reached"), slices.Index(steps, "agent reached")
	if first < 0 || last < first {
		t.Fatalf("steps = %q, want memory and agent reached", steps)
	}
	steps = steps[first : last+1]
	if testing.Short() {
		steps = nil
	}
	t.Run("step", func(t *testing.T) {
		for i, step := range steps {
			t.Run(fmt.Sprintf("%02d %s", i, step), func(t *testing.T) {
				t.Parallel()
				id := fmt.Sprintf("step%02d", i)
				s.dieAt(t, id, step)
				if r := s.Within(t, callLimit, s.Args(id, []string{"--detach"}, "sleep", "1000")...); r.Code == 0 {
					t.Errorf("the start went on: %+v", r)
				}
				s.gone(t, id)
				if reached := s.steps(t, id); !slices.Contains(reached, step) {
					t.Errorf("the shim did not reach %q: %q", step, reached)
				}
				s.nothingOf(t, before, id)
			})
		}
	})
	if list := s.templates(t); len(list) != 1 || list[0].Failures != 0 {
		t.Errorf("templates = %+v, want one that has not failed", list)
	}
	s.NothingLeft(t, before)
	t.Logf("the shim was killed at %d steps", len(steps))
}

// started says what a running sandbox was started from.
func (s *stage) started(t *testing.T, id string) string {
	t.Helper()
	var box struct {
		Facts map[string]any `json:"facts"`
	}
	must(t, json.Unmarshal([]byte(s.site(t, "inspect", s.Namespace+"/"+id)), &box))
	return fmt.Sprint(box.Facts["start"])
}
