// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUndoGoesBackwardsThroughErrorsAndCancellation(t *testing.T) {
	var u undo
	var order []string
	broken := errors.New("broken")
	for _, name := range []string{"first", "second", "third"} {
		u.push(name, func(ctx context.Context) error {
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
	if err := u.run(ctx); !errors.Is(err, broken) || errors.Is(err, context.Canceled) {
		t.Errorf("run = %v, want %v alone", err, broken)
	}
	if diff := cmp.Diff([]string{"third", "second", "first"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if err := u.run(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second run did something: %v, %v", order, err)
	}
}
