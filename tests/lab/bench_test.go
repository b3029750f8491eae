// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/tests/bench"
)

// TestBenchTemplate measures starts from a template and cold ones under KVM, in a machine of its
// own: `make bench-lab`. The table goes to the log, and kvm_template_over_cold into $BENCH_JSON.
func TestBenchTemplate(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("BENCH_RUNS"))
	if err != nil || runs < 1 {
		t.Skip("takes minutes: say how often in BENCH_RUNS, as make bench-lab does")
	}
	m, err := chosenMAC()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*labTime)
	t.Cleanup(cancel)
	rounds(ctx, t, m, prepare(ctx, t, m), []scenario{
		{"starts", func(t *testing.T, l *lab) { l.benchTemplate(t, runs) }}, {"files", benchFiles},
	})
}

// benchTemplate has both kinds of start take turns. The first of each warms caches.
func (l *lab) benchTemplate(t *testing.T, runs int) {
	t.Helper()
	e := l.engine(t)
	l.buildTemplate(t)
	config := l.config(t, "bench", "", "", boxTables(l.mac, "manual")+"[workloads]\nannotations = [\"io.cloister.start\"]\n")
	kinds := []string{"template", "cold"}
	times, phases := map[string]bench.Samples{}, map[string]bench.Samples{}
	for i := range runs + 1 {
		for _, kind := range kinds {
			id := kind + strconv.Itoa(i)
			flags := []string{"--runtime-config-path", config}
			if kind == "cold" {
				flags = append(flags, "--annotation", "io.cloister.start=cold")
			}
			begin := time.Now()
			if err := e.run(id, flags...); err != nil {
				t.Fatal(err)
			}
			took := time.Since(begin)
			began := l.startOf(t, id)
			if !strings.HasPrefix(began.Facts.Start, kind) || began.Facts.Accel != "kvm" {
				t.Fatalf("%s: %+v, want a %s start with KVM", id, began.Facts, kind)
			}
			if err := e.remove(id); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				continue
			}
			t.Logf("%s: %.1f s", id, took.Seconds())
			times[kind] = times[kind].With(took)
			for _, p := range began.Phases {
				name := "kvm " + kind + " start: " + p.Name
				phases[name] = phases[name].With(time.Duration(p.DurationMs) * time.Millisecond)
			}
		}
	}
	var table strings.Builder
	over := bench.Ratio(times["template"].Median(), times["cold"].Median())
	fmt.Fprintf(&table, "%-32s %v\n", "kvm_template_over_cold", over)
	spreads := map[string]map[string]bench.Spread{"kvm_times_ms": {}, "kvm_phases_ms": {}}
	for title, all := range map[string]map[string]bench.Samples{"kvm_times_ms": times, "kvm_phases_ms": phases} {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			spreads[title][name] = all[name].Spread()
			fmt.Fprintf(&table, "%-48s %v\n", title+" "+name, spreads[title][name])
		}
	}
	t.Logf("medians (quartiles)\n%s", table.String())
	keys := map[string]any{"kvm_template_over_cold": over}
	for title, all := range spreads {
		keys[title] = all
	}
	if err := bench.Merge(keys); err != nil {
		t.Fatal(err)
	}
}

// readFiles makes 500 small files in a folder, opens, reads and closes each three times by the
// shell itself, and prints the seconds before and after that.
const readFiles = `mkdir $0; i=0; while [ $i -lt 500 ]; do echo x >$0/$i; i=$((i+1)); done
read begin rest </proc/uptime
for n in 1 2 3; do i=0; while [ $i -lt 500 ]; do read line <$0/$i; i=$((i+1)); done; done
read end rest </proc/uptime
echo $begin $end`

// benchFiles reads small files through a bind mount under KVM, and on the machine itself.
func benchFiles(t *testing.T, l *lab) {
	t.Helper()
	e := l.engine(t)
	l.sh(t, "mkdir /srv/files")
	if err := e.run("files", "--runtime-config-path", l.config(t, "files", "", "", boxTables(l.mac, "off")),
		"--mount", "type=bind,src=/srv/files,dst=/v,options=rbind"); err != nil {
		t.Fatal(err)
	}
	seconds := func(said string) float64 {
		var begin, end float64
		if _, err := fmt.Sscan(said, &begin, &end); err != nil || end <= begin {
			t.Fatalf("%q: %v, want two times", said, err)
		}
		return end - begin
	}
	inside, err := e.ctr("task", "exec", "--exec-id", "read", "files", "sh", "-c", readFiles, "/v/guest")
	if err != nil {
		t.Fatal(err)
	}
	guest, host := seconds(inside), seconds(l.sh(t, "/bin/busybox sh -c '"+readFiles+"' /srv/files/host"))
	t.Logf("1500 reads: %.2f s in the guest, %.2f s on its host: %.0f", guest, host, guest/host)
	if err := bench.Merge(map[string]any{"kvm_small_files_over_host": bench.Ratio(guest, host)}); err != nil {
		t.Fatal(err)
	}
	if err := e.remove("files"); err != nil {
		t.Fatal(err)
	}
}

// begun is what inspect says of a sandbox's start.
type begun struct {
	Facts struct {
		Start string `json:"start"`
		Accel string `json:"accel"`
	} `json:"facts"`
	Phases []struct {
		Name       string `json:"name"`
		DurationMs int64  `json:"durationMs"`
	} `json:"phases"`
}

func (l *lab) startOf(t *testing.T, id string) (b begun) {
	t.Helper()
	text := l.sh(t, "cloister inspect "+id)
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		t.Fatalf("inspect: %v: %s", err, text)
	}
	return b
}
