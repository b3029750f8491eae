// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// merge puts keys into $BENCH_JSON beside those that are there.
func merge(t *testing.T, keys map[string]any) {
	t.Helper()
	if err := Merge(keys); err != nil {
		t.Fatal(err)
	}
}

// point is one of the curve over how many sandboxes start at once.
type point struct {
	Count    int     `json:"count"`
	Start    Spread  `json:"start_ms"`    // of one, among the others
	AllMs    float64 `json:"all_ms"`      // until the last is there
	PSSMiB   float64 `json:"pss_mib"`     // of one: QEMU, file server and shim
	DeleteMs Spread  `json:"delete_ms"`   // of one, all at once
	Slower   float64 `json:"over_single"` // all_ms by sandbox, over that of one alone
}

// TestBenchScale starts up to 30 sandboxes at once; all must start, and nothing may be left.
func TestBenchScale(t *testing.T) {
	needRuns(t)
	b := bed.New(t, host.Options{})
	before := b.Look(t)
	var curve []point
	for _, count := range []int{1, 5, 10, 20, 30} {
		p := start(t, b, count)
		if len(curve) > 0 {
			p.Slower = Ratio(p.AllMs/float64(count), curve[0].AllMs)
		}
		b.NothingLeft(t, before)
		curve = append(curve, p)
		t.Logf("%d at once: start %s ms, all %.0f ms, PSS %.0f MiB each, delete %s ms", count, p.Start, p.AllMs, p.PSSMiB, p.DeleteMs)
	}
	merge(t, map[string]any{"scale": curve})
}

func needRuns(t *testing.T) int {
	t.Helper()
	runs, err := strconv.Atoi(os.Getenv("BENCH_RUNS"))
	if err != nil || runs < 1 {
		t.Skip("takes minutes: say how often in BENCH_RUNS, as make bench does")
	}
	return runs
}

// start has so many sandboxes come and go.
func start(t *testing.T, b *bed.Bed, count int) point {
	t.Helper()
	p := point{Count: count}
	var starts, deletes Samples
	begin := time.Now()
	starts = together(count, func(i int) {
		if r := b.Within(t, 15*time.Minute, b.Args(fmt.Sprintf("s%d-%d", count, i), []string{"--detach"},
			"sleep", "100000")...); r.Code != 0 {
			t.Errorf("%d of %d at once: %+v", i, count, r)
		}
	})
	p.AllMs = float64(time.Since(begin).Milliseconds())
	for _, word := range []string{"qemu-system", "virtiofsd", "containerd-shim-cloister"} {
		for _, pid := range b.Processes(t, word) {
			p.PSSMiB += pss(b, pid) / float64(count)
		}
	}
	p.PSSMiB = round(p.PSSMiB)
	for i := range count {
		b.Must(t, "task", "kill", "--signal", "KILL", fmt.Sprintf("s%d-%d", count, i))
	}
	deletes = together(count, func(i int) {
		if r := b.Within(t, time.Minute, "task", "delete", "--force", fmt.Sprintf("s%d-%d", count, i)); r.Code != 0 &&
			!strings.Contains(r.Stderr, "exit") {
			t.Logf("delete %d of %d: %+v", i, count, r)
		}
	})
	for i := range count {
		b.Must(t, "containers", "delete", fmt.Sprintf("s%d-%d", count, i))
	}
	p.Start, p.DeleteMs = starts.Spread(), deletes.Spread()
	return p
}

// together runs f for 0 to count-1 at once and gives how long each took.
func together(count int, f func(i int)) Samples {
	var mu sync.Mutex
	var took Samples
	var group sync.WaitGroup
	for i := range count {
		group.Go(func() {
			begin := time.Now()
			f(i)
			mu.Lock()
			defer mu.Unlock()
			took = took.With(time.Since(begin))
		})
	}
	group.Wait()
	return took
}

// pss is a process's share of memory in MiB, 0 when it is gone.
func pss(b *bed.Bed, pid int) float64 {
	data, _ := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/smaps_rollup", pid)))
	for line := range strings.Lines(string(data)) {
		var kib float64
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
			return kib / 1024
		}
	}
	return 0
}
