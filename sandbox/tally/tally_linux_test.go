// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

func TestAddLosesNoCountOfManyShims(t *testing.T) {
	state := filepath.Join(t.TempDir(), "run/cloister")
	var all sync.WaitGroup
	const shims, starts = 4, 25
	for range shims {
		all.Go(func() {
			for i := range starts {
				if err := Add(state, func(c *Counts) {
					c.Started("vm")
					c.Took("kernel", int64(i))
					c.Failed("qemu", fmt.Errorf("start: %w", context.DeadlineExceeded))
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	c, err := Load(state)
	if err != nil || c.Starts["vm"] != shims*starts || c.Failures["qemu"]["timeout"] != shims*starts {
		t.Fatalf("Load = %+v, %v, want %d of each", c, err, shims*starts)
	}
	h, sum := c.Phases["kernel"], uint64(0)
	for _, n := range h.Buckets {
		sum += n
	}
	if h.Count != shims*starts || sum != h.Count || h.SumMs != shims*starts*(starts-1)/2 || h.Buckets[0] != 2*shims {
		t.Errorf("kernel: %+v", h)
	}
}

// TestFileStaysSmall counts what no program of ours does: names without end.
func TestFileStaysSmall(t *testing.T) {
	state := t.TempDir()
	size := func() int64 {
		st, err := os.Stat(filepath.Join(state, fileName))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	for i := range 10 * maxNames {
		name := fmt.Sprintf("n%04d", i)
		if err := Add(state, func(c *Counts) {
			c.Started(name)
			c.Failed(name, errors.New(name))
			c.Took(name, 1<<40)
		}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(state)
	if err != nil || len(c.Starts) > maxNames+1 || len(c.Failures) > maxNames+1 || len(c.Phases) > maxNames+1 {
		t.Errorf("%d starts, %d failures, %d phases, %v", len(c.Starts), len(c.Failures), len(c.Phases), err)
	}
	if size() > maxFile/10 {
		t.Errorf("the file has %d bytes", size())
	}
}

func TestDamagedCountsAreReplaced(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "cut": `{"version":1,"star`,
		"later": `{"version":99}`, "null": `{"version":1,"phases":{"qemu":null}}`,
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			if err := os.WriteFile(filepath.Join(state, fileName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(state); name != "null" && !errors.Is(err, errDamaged) {
				t.Errorf("Load = %v, want damaged", err)
			}
			if err := Add(state, func(c *Counts) { c.Took("qemu", 7) }); err != nil {
				t.Fatal(err)
			}
			if c, err := Load(state); err != nil || c.Phases["qemu"].Count != 1 {
				t.Errorf("Load after Add = %+v, %v", c, err)
			}
		})
	}
}

// TestHeldLockIsAnError: a shim that is stopped while it counts stops no other.
func TestHeldLockIsAnError(t *testing.T) {
	state := t.TempDir()
	held, err := os.OpenFile(filepath.Join(state, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := take(held); err != nil {
		t.Fatal(err)
	}
	if err := Add(state, func(c *Counts) { c.Started("vm") }); err == nil {
		t.Error("Add = nil while another holds the lock")
	}
}

func TestReason(t *testing.T) {
	_, missing := os.Open("/nonexistent")
	for _, tt := range []struct {
		in   error
		want string
	}{
		{fmt.Errorf("x: %w", errdefs.ErrInvalidArgument), "invalid"},
		{fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, context.DeadlineExceeded), "timeout"},
		{missing, "missing"},
		{errors.New("a text that a guest chose"), other},
	} {
		if got := Reason(tt.in); got != tt.want {
			t.Errorf("Reason(%v) = %s, want %s", tt.in, got, tt.want)
		}
	}
}
