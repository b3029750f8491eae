// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel"
)

// undoLimit bounds the whole of an undo, against what hangs: the labels of a large volume, or a machine on a busy host, take their time.
const undoLimit = time.Minute

// undo is a stack of steps that take back what was done so far. Its zero value
// is empty.
type undo struct {
	steps []undoStep
	trace func(what, moment string) // told of every step done and taken back; nil for none
}

type undoStep struct {
	what string
	fn   func(context.Context) error
}

// push adds the step that takes back what has just been done.
func (u *undo) push(what string, fn func(context.Context) error) {
	u.steps = append(u.steps, undoStep{what, fn})
	u.tell(what, "done")
}

func (u *undo) tell(what, moment string) {
	if u.trace != nil {
		u.trace(what, moment)
	}
}

// run takes everything back, newest first, though ctx may be cancelled already;
// it goes on after an error and returns them all.
func (u *undo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(u.steps) {
		_, span := otel.Tracer(tracer).Start(ctx, "undo "+s.what)
		err := s.fn(ctx)
		span.End()
		if err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.what, err))
		}
		u.tell(s.what, "undone")
	}
	u.steps = nil
	return errors.Join(errs...)
}
