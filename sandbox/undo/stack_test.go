// SPDX-License-Identifier: Apache-2.0

package undo

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUndoGoesBackwardsThroughErrorsAndCancellation(t *testing.T) {
	var u Stack
	var order []string
	broken := errors.New("broken")
	for _, name := range []string{"first", "second", "third"} {
		u.Push(name, func(ctx context.Context) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			order = append(order, name)
			if name == "second" {
				return broken
			}
			return nil
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.Run(ctx); !errors.Is(err, broken) || errors.Is(err, context.Canceled) {
		t.Errorf("run = %v, want %v alone", err, broken)
	}
	if diff := cmp.Diff([]string{"third", "second", "first"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if err := u.Run(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second run did something: %v, %v", order, err)
	}
}

// TestUndoWaitsForSlowSteps has a step that is slower than containerd's bound for the program
// delete, and one that never ends.
func TestUndoWaitsForSlowSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u Stack
		slow := func(took time.Duration) func(context.Context) error {
			return func(ctx context.Context) error {
				select {
				case <-time.After(took):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		u.Push("labels of many files", slow(20*time.Second))
		if err := u.Run(t.Context()); err != nil {
			t.Errorf("run = %v, want none", err)
		}
		u.Push("what hangs", slow(time.Hour))
		if err := u.Run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("run = %v, want %v", err, context.DeadlineExceeded)
		}
	})
}
