// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// scrapeInterval is the time between two scrapes, as Prometheus is often configured.
const scrapeInterval = 15 * time.Second

// TestMetricsRecording runs sandboxes of both classes for twenty minutes, and writes what `cloister
// metrics` said meanwhile to the file METRICS_RECORDING: docs/metrics.svg is drawn from it.
func TestMetricsRecording(t *testing.T) {
	file := os.Getenv("METRICS_RECORDING")
	if file == "" {
		t.Skip("takes twenty minutes: name the file in METRICS_RECORDING, as make metrics-recording does")
	}
	length, err := time.ParseDuration(cmp.Or(os.Getenv("METRICS_LENGTH"), "20m"))
	if err != nil {
		t.Fatal(err)
	}
	testenv.NeedSandbox(t)
	r := &recorder{
		Bed: bed.New(t, host.Options{Class: "process", Cloister: "[workloads]\nannotations = [\"io.cloister.class\"]\n"}),
		ids: map[string][]string{},
	}
	var scraping sync.WaitGroup
	stop := make(chan struct{})
	scraping.Go(func() { r.scrape(t, stop) })
	r.live(t, length)
	close(stop)
	scraping.Wait()
	if err := os.WriteFile(file, []byte(r.text()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recorder keeps the scrapes of one bed.
type recorder struct {
	*bed.Bed
	ids     map[string][]string // sandboxes that run, by class, oldest first
	started int
	scrapes [][]byte
}

// scrape takes the metrics at each interval until stop is closed.
func (r *recorder) scrape(t *testing.T, stop <-chan struct{}) {
	tick := time.NewTicker(scrapeInterval)
	defer tick.Stop()
	for {
		cmd := r.Place.Command(t.Context(), filepath.Join(testenv.Build(t), "cloister"), "metrics")
		cmd.Env = r.Env
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("metrics: %v", err)
		}
		r.scrapes = append(r.scrapes, out)
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// live has sandboxes come and go. Every moment is a share of the whole length.
func (r *recorder) live(t *testing.T, length time.Duration) {
	begin := time.Now()
	part := func() float64 { return float64(time.Since(begin)) / float64(length) }
	// From each moment on, so many sandboxes of each class are wanted.
	wanted := []struct {
		from        float64
		vm, process int
	}{{0, 1, 1}, {0.1, 2, 2}, {0.2, 3, 3}, {0.35, 5, 3}, {0.6, 4, 4}, {0.75, 3, 2}, {0.9, 2, 1}}
	once := []struct {
		at float64
		do func()
	}{
		{0.15, func() { r.fail(t, "missing mount") }},
		{0.25, func() { r.fail(t, "missing mount") }},
		{0.30, func() { r.fail(t, "missing program") }},
		{0.45, func() { r.fail(t, "missing mount"); r.fail(t, "missing mount") }},
		{0.50, func() { r.fail(t, "missing program") }},
		{0.66, func() { r.killShim(t) }},
		{0.72, func() { r.collect(t) }},
		{0.80, func() { r.fail(t, "missing program"); r.fail(t, "missing mount") }},
	}
	for part() < 1 {
		for len(once) > 0 && part() >= once[0].at {
			once[0].do()
			once = once[1:]
		}
		want := wanted[0]
		for _, w := range wanted {
			if part() >= w.from {
				want = w
			}
		}
		r.adjust(t, "vm", want.vm)
		r.adjust(t, "process", want.process)
		// The pace of the run, not a wait for an event.
		time.Sleep(length / 80)
	}
}

// adjust replaces the oldest sandbox of a class, or brings their number one nearer to the one that
// is wanted.
func (r *recorder) adjust(t *testing.T, class string, want int) {
	if n := len(r.ids[class]); n >= want && n > 0 {
		r.Remove(t, r.ids[class][0])
		r.ids[class] = r.ids[class][1:]
		if n > want {
			return
		}
	}
	r.started++
	id := fmt.Sprint(class, r.started)
	var options []string
	if class == "vm" {
		options = []string{"--annotation", "io.cloister.class=vm"}
	}
	r.Start(t, id, options, "sleep", "10000")
	if e := r.Exec(t, id, "e", "true"); e.Code != 0 {
		t.Errorf("exec in %s = %+v", id, e)
	}
	r.ids[class] = append(r.ids[class], id)
}

// fail starts a sandbox that cannot start, or one whose program cannot.
func (r *recorder) fail(t *testing.T, why string) {
	r.started++
	id := fmt.Sprint("fails", r.started)
	options, command := []string{"--rm", "--annotation", "io.cloister.class=vm"}, "true"
	if why == "missing mount" {
		options = append(options, "--mount", "type=bind,src=/nonexistent,dst=/x,options=rbind:ro")
	} else {
		command = "/nonexistent"
	}
	if got := r.Run(t, r.Args(id, options, command)...); got.Code == 0 {
		t.Errorf("a sandbox with a %s started", why)
	}
}

// killShim kills the shim of a machine and leaves what it had.
func (r *recorder) killShim(t *testing.T) {
	machines := r.ids["vm"]
	last := len(machines) - 1
	r.Kill(t, r.Shim(t, machines[last]))
	r.ids["vm"] = machines[:last]
}

// collect cleans up after dead shims.
func (r *recorder) collect(t *testing.T) {
	cmd := r.Place.Command(t.Context(), filepath.Join(testenv.Build(t), "cloister"), "gc")
	cmd.Env = r.Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("gc: %v\n%s", err, out)
	}
}

// text gives the scrapes in the language of Prometheus' own tests, one series a line: `_` for a
// scrape without the series, `1x3` for the same value four times. As Prometheus does, it adds the
// host as a label.
func (r *recorder) text() string {
	values, names := map[string][]string{}, []string{}
	for i, scrape := range r.scrapes {
		for line := range strings.Lines(string(scrape)) {
			name, value, ok := cutLast(strings.TrimSpace(line))
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			name = withInstance(name)
			if values[name] == nil {
				names = append(names, name)
				values[name] = slices.Repeat([]string{"_"}, len(r.scrapes))
			}
			values[name][i] = value
		}
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("# What `cloister metrics` said at each scrape of a run of sandboxes: make metrics-recording.\n")
	fmt.Fprintf(&b, "load %s\n", scrapeInterval)
	for _, name := range names {
		fmt.Fprintf(&b, "  %s %s\n", name, strings.Join(shorten(values[name]), " "))
	}
	return b.String()
}

func cutLast(line string) (name, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func withInstance(name string) string {
	metric, labels, some := strings.Cut(name, "{")
	if !some {
		return metric + `{instance="node1"}`
	}
	return metric + `{instance="node1",` + labels
}

// shorten writes equal values in a row as one.
func shorten(values []string) []string {
	var short []string
	for i := 0; i < len(values); {
		n := 1
		for i+n < len(values) && values[i+n] == values[i] {
			n++
		}
		switch {
		case n == 1:
			short = append(short, values[i])
		case values[i] == "_":
			short = append(short, fmt.Sprintf("_x%d", n))
		default:
			short = append(short, fmt.Sprintf("%sx%d", values[i], n-1))
		}
		i += n
	}
	return short
}
