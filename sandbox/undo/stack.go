// SPDX-License-Identifier: Apache-2.0

package undo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel"

	"cloister/sandbox/statedir"
)

// Limit bounds a whole undo. Only a step that hangs reaches it: relabelling a large volume, or
// ending a machine on a busy host, takes tens of seconds.
const Limit = time.Minute

// tracer names the source of the spans.
const tracer = "cloister/sandbox"

// Trace is called for each effect on the host: before it happens, after it, and once the record has
// it as done. It is also called for each step that was done or taken back. Crash tests set it; nil
// is not called. It must not block.
type Trace func(what, moment string)

// Tell passes a moment on.
func (t Trace) Tell(what, moment string) {
	if t != nil {
		t(what, moment)
	}
}

// Effect tells of a moment in an effect's life.
func (t Trace) Effect(e statedir.Effect, moment string) {
	t.Tell(string(e.Kind)+" "+filepath.Base(e.Path), moment)
}

// Stack has the steps that take back what was done so far. Its zero value is empty.
type Stack struct {
	Trace Trace
	steps []step
}

type step struct {
	what string
	fn   func(context.Context) error
}

// Push adds the step that takes back what has just been done. It is called at once after the step:
// what is made between the two would be left on an error.
func (s *Stack) Push(what string, fn func(context.Context) error) {
	s.steps = append(s.steps, step{what, fn})
	s.Trace.Tell(what, "done")
}

// Do makes an effect on the host. The record has it before it happens and loses it when it is taken
// back. undo must succeed when nothing happened. An error of act is returned with the undo pushed,
// since the effect may have happened in part.
func (s *Stack) Do(j *statedir.Journal, e statedir.Effect, act func(*statedir.Effect) error, undo func(context.Context) error) error {
	seq, err := j.Promise(e)
	if err != nil {
		return err
	}
	s.Push(e.String(), func(ctx context.Context) error {
		if err := undo(ctx); err != nil {
			return err
		}
		return j.Forget(seq)
	})
	s.Trace.Effect(e, "promised")
	if err := act(&e); err != nil {
		return err
	}
	s.Trace.Effect(e, "made")
	err = j.Done(seq, func(stored *statedir.Effect) {
		stored.Path, stored.Detail, stored.Process = e.Path, e.Detail, e.Process
	})
	s.Trace.Effect(e, "written")
	return err
}

// Run takes everything back, newest first, also when ctx has been cancelled. It goes on after an
// error and returns all errors. The stack is empty afterwards. An effect whose undo fails stays in
// the record, where gc finds it.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	var errs []error
	for _, one := range slices.Backward(s.steps) {
		_, span := otel.Tracer(tracer).Start(ctx, "undo "+one.what)
		err := one.fn(ctx)
		span.End()
		if err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", one.what, err))
		}
		s.Trace.Tell(one.what, "undone")
	}
	s.steps = nil
	return errors.Join(errs...)
}
