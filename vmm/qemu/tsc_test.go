// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"

	"cloister/vmm"
)

func TestTSC(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("no time stamp counter")
	}
	first, second := NewTSC().KHz(t.Context()), NewTSC().KHz(t.Context())
	if off := math.Abs(float64(first-second)) / float64(first); first < 100_000 || off > 0.005 {
		t.Errorf("KHz twice = %d, %d, want about the same", first, second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if got := NewTSC().KHz(ctx); got != 0 {
		t.Errorf("KHz without time = %d, want 0", got)
	}
	if got := NewTSC().Cmdline(t.Context(), vmm.AccelTCG); len(got) != 3 {
		t.Errorf("Cmdline(tcg) = %q, want three parameters", got)
	}
	if got := NewTSC().Cmdline(t.Context(), vmm.AccelKVM); len(got) != 0 {
		t.Errorf("Cmdline(kvm) = %q, want none", got)
	}
}
