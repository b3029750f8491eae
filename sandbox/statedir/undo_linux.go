// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

// Undoer takes one kind of effect back. It is called for effects that were only promised too, and
// more than once for the same one: nothing there is success. An error keeps the effect in the
// record.
type Undoer func(context.Context, Effect) error

// Undo takes back all effects, newest first, and strikes out each one that is gone. It goes on
// after an error and returns them all; what failed stays in the record for the next try. A kind
// without an undoer is an error. Effects that a reboot has taken back meanwhile are struck out
// unasked. Newest first: a later effect may need what an earlier one made.
func (j *Journal) Undo(ctx context.Context, undoers map[Kind]Undoer) error {
	r := j.Record()
	boot, err := sys.BootID()
	if err != nil {
		return err
	}
	// A pid, mount or namespace of an earlier boot is somebody else's by now: undoing it would hit
	// the wrong one.
	rebooted := r.BootID != "" && r.BootID != boot
	var errs []error
	for _, e := range slices.Backward(r.Effects) {
		if rebooted && e.Kind.volatile() {
			errs = append(errs, j.Forget(e.Seq))
			continue
		}
		undo, ok := undoers[e.Kind]
		if !ok {
			errs = append(errs, fmt.Errorf("undo %v: %w", e, errdefs.ErrNotImplemented))
			continue
		}
		if err := undo(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("undo %v: %w", e, err))
			continue
		}
		errs = append(errs, j.Forget(e.Seq))
	}
	return errors.Join(errs...)
}

// UndoProcess is the Undoer of KindProcess: it kills the process by pid and start time, and while
// the pid is not known every process that carries the marker in Detail. It returns when the process
// is gone, or ctx ends.
func UndoProcess(ctx context.Context, e Effect) error {
	if e.Process.PID != 0 {
		return e.Process.Kill(ctx)
	}
	if e.Detail == "" {
		return nil
	}
	list, err := Marked(e.Detail)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range list {
		errs = append(errs, p.Kill(ctx))
	}
	return errors.Join(errs...)
}
