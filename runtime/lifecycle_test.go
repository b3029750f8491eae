// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var errStep = errors.New("the step failed")

// life takes container c with exec e through all calls of an ordinary life, and gives the first
// error. After an error it goes on with what a client does then: Delete.
func (w *world) life(ctx context.Context) error {
	_, err := w.r.Create(ctx, w.request("c", nil))
	if err != nil {
		return err
	}
	var errs []error
	try := func(err error) bool {
		errs = append(errs, err)
		return err == nil
	}
	_, err = w.r.Start(ctx, Ref{Container: "c"})
	if try(err) {
		if try(w.r.Exec(ctx, w.execRequest("c", "e"))) {
			if _, err := w.r.Start(ctx, Ref{"c", "e"}); try(err) {
				w.exit(Ref{"c", "e"}, 0)
			}
			if _, err := w.r.Wait(ctx, Ref{"c", "e"}); try(err) {
				_, _, err := w.r.Delete(ctx, Ref{"c", "e"})
				try(err)
			}
		}
		if try(w.r.Kill(ctx, Ref{Container: "c"}, 9, false)) {
			_, err := w.r.Wait(ctx, Ref{Container: "c"})
			try(err)
		}
	}
	_, _, err = w.r.Delete(ctx, Ref{Container: "c"})
	try(err)
	return errors.Join(errs...)
}

// wholeLife is every step of life, in the order that containerd's contract and a clean undo want.
var wholeLife = []string{
	"load", "launch c", "add c", "stream", "guest create c", "event create c",
	"sync c", "guest start c", "event start c",
	"event exec-added c/e", "stream", "guest exec c/e", "guest start c/e", "event exec-started c/e", "event exit c/e 0", "guest delete c/e",
	"guest kill c 9", "event exit c 137",
	"halt", "remove c", "destroy", "event delete c 137",
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	if err := w.life(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(wholeLife, w.took()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	w.nothingLeft()
}

// TestLifeWithDisks has a machine that must not be halted: the guest unmounts its disks.
func TestLifeWithDisks(t *testing.T) {
	w := newWorld(t)
	w.disks = true
	if err := w.life(t.Context()); err != nil {
		t.Error(err)
	}
	steps := w.took()
	want := []string{"halt refused", "guest delete c", "remove c", "destroy", "event delete c 137"}
	if got := steps[len(steps)-len(want):]; !slices.Equal(got, want) {
		t.Errorf("the end = %q, want %q", got, want)
	}
	w.nothingLeft()
}

// nothingLeft demands that sandbox, guest and runtime have forgotten everything.
func (w *world) nothingLeft() {
	w.t.Helper()
	if left := w.left(); len(left) > 0 {
		w.t.Errorf("left behind: %q", left)
	}
	if !w.r.Empty() {
		w.t.Error("the runtime still has containers")
	}
}

// TestFailureOfEveryStep has each step of a life fail: its error reaches the caller, what the call
// has done is undone in reverse order, and a second life goes well.
func TestFailureOfEveryStep(t *testing.T) {
	// What follows the failing step within the same call.
	undone := map[string][]string{
		"load":           {},
		"launch c":       {},
		"add c":          {"destroy"},
		"stream":         {"remove c", "destroy"},
		"guest create c": {"remove c", "destroy"},
	}
	logged := []string{"event ", "remove", "destroy"} // the container goes all the same
	for _, step := range slices.Compact(slices.Sorted(slices.Values(wholeLife))) {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.do(step, func() error { return errStep })
			err := w.life(t.Context())
			tolerated := slices.ContainsFunc(logged, func(prefix string) bool { return strings.HasPrefix(step, prefix) })
			if errors.Is(err, errStep) == tolerated {
				t.Errorf("the client got %v, want the step's error: %t", err, !tolerated)
			}
			steps := w.took()
			if want, ok := undone[step]; ok {
				if got := steps[slices.Index(steps, step)+1:]; !slices.Equal(got, want) {
					t.Errorf("after it: %q, want %q", got, want)
				}
			}
			w.contract(steps)
			w.do(step, nil)
			_ = w.r.Close(t.Context()) // what a client does with a container that cannot be deleted
			if !w.r.Empty() {
				_, err := w.r.Wait(t.Context(), Ref{Container: "c"})
				w.must(err)
				_, _, err = w.r.Delete(t.Context(), Ref{Container: "c"})
				w.must(err)
			}
			w.nothingLeft()
			if err := w.life(t.Context()); err != nil {
				t.Errorf("a second life: %v", err)
			}
			w.nothingLeft()
		})
	}
}

// TestClientLeavesAtEveryStep has the client disconnect at each step. Every call either has its
// whole effect or none; a patient client can delete the container, and nothing is left.
func TestClientLeavesAtEveryStep(t *testing.T) {
	for _, step := range slices.Compact(slices.Sorted(slices.Values(wholeLife))) {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			ctx, leave := context.WithCancel(t.Context())
			w.do(step, func() error { leave(); return nil })
			_ = w.life(ctx) // ends early, or with an error of a call that came too late
			w.do(step, nil)
			for _, ref := range []Ref{{"c", "e"}, {Container: "c"}} {
				if _, err := w.r.State(ref); err != nil {
					continue
				}
				if err := w.r.Kill(t.Context(), ref, 9, false); err == nil {
					_, err = w.r.Wait(t.Context(), ref)
					w.must(err)
				}
				if _, _, err := w.r.Delete(t.Context(), ref); err != nil {
					t.Errorf("delete %s: %v", ref, err)
				}
			}
			w.nothingLeft()
			w.contract(w.took())
			if err := w.life(t.Context()); err != nil {
				t.Errorf("a second life: %v", err)
			}
		})
	}
}

// contract demands containerd's order of events: create, start, exit, delete of a container;
// exec-added, exec-started, exit of an exec, each at most once; an exit before the container's.
func (w *world) contract(steps []string) {
	w.t.Helper()
	seen := map[string]int{}
	for i, step := range steps {
		words := strings.Fields(step)
		if words[0] != "event" {
			continue
		}
		kind, ref := words[1], words[2]
		key := kind + " " + ref
		if _, twice := seen[key]; twice && kind != "oom" && kind != "paused" && kind != "resumed" {
			w.t.Errorf("%s was published twice: %q", key, steps)
		}
		seen[key] = i
		after := func(other string) {
			if _, ok := seen[other]; !ok {
				w.t.Errorf("%s came without %s before it: %q", key, other, steps)
			}
		}
		never := func(other string) {
			if _, ok := seen[other]; ok {
				w.t.Errorf("%s came after %s: %q", key, other, steps)
			}
		}
		exec := strings.Contains(ref, "/")
		switch kind {
		case "start", "paused", "resumed":
			after("create " + ref)
			never("exit " + ref)
		case "exec-added":
			never("exit " + strings.Split(ref, "/")[0])
		case "exec-started":
			after("exec-added " + ref)
			never("exit " + ref)
		case "exit":
			if exec {
				after("exec-started " + ref)
				never("exit " + strings.Split(ref, "/")[0])
			} else {
				after("create " + ref)
			}
		case "delete":
			after("exit " + ref)
			maps.DeleteFunc(seen, func(key string, _ int) bool { // the id is free again
				_, of, _ := strings.Cut(key, " ")
				return of == ref || strings.HasPrefix(of, ref+"/")
			})
		}
	}
}

// TestExecThatCannotStart wants no exit event: its status would replace the one that clients take
// from the error (126 or 127).
func TestExecThatCannotStart(t *testing.T) {
	for _, step := range []string{"stream", "guest exec c/e", "guest start c/e"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.run("c")
			w.took()
			w.do(step, func() error { return errStep })
			if err := w.exec("c", "e"); !errors.Is(err, errStep) {
				t.Errorf("exec = %v, want the step's error", err)
			}
			w.do(step, nil)
			e, err := w.r.Wait(t.Context(), Ref{"c", "e"})
			if err != nil || e.Status != exitNotStarted {
				t.Errorf("Wait = %+v, %v, want %d at once", e, err, exitNotStarted)
			}
			if _, _, err := w.r.Delete(t.Context(), Ref{"c", "e"}); err != nil {
				t.Error(err)
			}
			for _, s := range w.took() {
				if strings.HasPrefix(s, "event exit") || strings.HasPrefix(s, "event exec-started") {
					t.Errorf("published: %s", s)
				}
			}
			if err := w.exec("c", "e"); err != nil {
				t.Errorf("the same exec once more: %v", err)
			}
		})
	}
}

// TestDeleteBeforeStart publishes an exit of a container, which containerd waits for, and none
// of an exec.
func TestDeleteBeforeStart(t *testing.T) {
	w := newWorld(t)
	w.run("c")
	w.must(w.r.Exec(t.Context(), w.execRequest("c", "e")))
	_, _, err := w.r.Delete(t.Context(), Ref{"c", "e"})
	w.must(err)
	if steps := w.took(); slices.ContainsFunc(steps, func(s string) bool { return strings.HasPrefix(s, "event exit") }) {
		t.Errorf("an exec that never ran: %q", steps)
	}
	w = newWorld(t)
	w.create("c")
	w.took()
	_, exited, err := w.r.Delete(t.Context(), Ref{Container: "c"})
	w.must(err)
	if steps := w.took(); !slices.Contains(steps, "event exit c 137") || exited.Status != 137 {
		t.Errorf("a container that never ran: %q, %+v", steps, exited)
	}
	w.nothingLeft()
}

// TestMachineDies ends every process with 137, execs first.
func TestMachineDies(t *testing.T) {
	w := newWorld(t)
	w.end.Reason, w.end.OutOfMemory = errors.New("killed"), true
	w.run("c")
	w.must(w.exec("c", "e"))
	w.took()
	w.die()
	for _, ref := range []Ref{{"c", "e"}, {Container: "c"}} {
		if e, err := w.r.Wait(t.Context(), ref); err != nil || e.Status != exitGuestDied {
			t.Errorf("Wait(%s) = %+v, %v", ref, e, err)
		}
	}
	if diff := cmp.Diff([]string{"event oom c", "event exit c/e 137", "event exit c 137"}, w.took()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	w.do("guest delete c/e", func() error { return errdefs.ErrUnavailable })
	for _, ref := range []Ref{{"c", "e"}, {Container: "c"}} {
		if _, _, err := w.r.Delete(t.Context(), ref); err != nil {
			t.Errorf("delete %s: %v", ref, err)
		}
	}
	w.nothingLeft()
}

// TestReadOnlyOfDocker: a read-only bind of Docker makes the mounts below it read-only, too.
func TestReadOnlyOfDocker(t *testing.T) {
	for namespace, want := range map[string]bool{"moby": true, "k8s.io": false} {
		w := newWorld(t)
		w.r.namespace = namespace
		_, err := w.r.Create(t.Context(), w.request("a", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/s", Options: []string{"rbind", "ro", "rprivate"}}}
		}))
		w.must(err)
		if got := w.r.containers["a"].workload.Mounts[0].RecursiveRO; got != want {
			t.Errorf("in %s: read-only below = %v, want %v", namespace, got, want)
		}
	}
}

// TestHooks wants a failing hook to undo the create, and the hooks' order in a life.
func TestHooks(t *testing.T) {
	w := newWorld(t)
	_, err := w.r.Create(t.Context(), w.request("c", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no luck >&2; exit 3"}}}}
	}))
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("Create = %v, want the hook's message", err)
	}
	if diff := cmp.Diff([]string{"load", "launch c", "destroy"}, w.took()); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	w.nothingLeft()
}

// TestOutputBeforeExit wants the output delivered when the exit is published.
func TestOutputBeforeExit(t *testing.T) {
	w := newWorld(t)
	w.run("c")
	w.mu.Lock()
	out := w.tasks["c"].out[0].out
	w.mu.Unlock()
	const text = "last words\n"
	w.do("event exit c 0", func() error {
		if got := w.output("c"); got != text {
			t.Errorf("the output is %q at the exit, want %q", got, text)
		}
		return nil
	})
	_, err := out.Write([]byte(text))
	w.must(err)
	w.exit(Ref{Container: "c"}, 0)
	_, err = w.r.Wait(t.Context(), Ref{Container: "c"})
	w.must(err)
	if got := w.output("c"); got != text {
		t.Errorf("output = %q, want %q", got, text)
	}
}
