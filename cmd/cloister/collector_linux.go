// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cloister/cmd/internal/stamp"
	"cloister/sandbox/tally"
)

// collector takes the metrics from records, /proc, the host's counts and the log of denials each
// time it is asked. Labels have values of fixed sets: docs/metrics.md lists them. It keeps nothing
// between two questions, so a metric is never older than the answer. client_golang calls it from
// several goroutines, which share no state here.
type collector struct {
	site *site
	desc descriptions
}

// describe is a metric with cloister's prefix. Its names and labels are a contract: alert rules and
// dashboards use them.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cloister_"+name, help, labels, nil)
}

// descriptions are those of all metrics. They are made once: client_golang compares what Collect
// sends with them.
type descriptions struct {
	info, sandboxes, memory, oldImages, starts, failures, phases, leaks, denials, clashes, scrape, time *prometheus.Desc
}

// newCollector makes the collector of one host. A label's values are few and fixed, so the number
// of series does not grow with that of sandboxes.
func newCollector(s *site) collector {
	return collector{s, descriptions{
		info:      describe("build_info", "Version of cloister; the value is 1.", "version"),
		sandboxes: describe("sandboxes", "Sandboxes by state and class.", "state", "class"),
		memory:    describe("memory_bytes", "Memory of all sandboxes on the host, as proportional set size, by part.", "part"),
		oldImages: describe("sandboxes_on_old_image", "Sandboxes that run another guest image than the one on disk."),
		starts:    describe("starts_total", "Starts of sandboxes that succeeded, by class.", "class"),
		failures:  describe("start_failures_total", "Starts of sandboxes that failed, by phase and reason.", "phase", "reason"),
		phases:    describe("start_phase_duration_seconds", "Duration of the phases of successful starts.", "phase"),
		leaks:     describe("leaks_found_total", "Sandboxes that a dead shim left and that were cleaned up."),
		denials: describe("denials_logged", "Denials about guests in the host's log (SELinux, AppArmor, system calls), by verdict.",
			"verdict"),
		clashes: describe("label_clashes", "Levels by which two tenants can reach each other."),
		scrape:  describe("scrape_success", "Whether a source of metrics could be read.", "source"),
		time:    describe("scrape_timestamp_seconds", "When the metrics were taken."),
	}}
}

// Describe is prometheus.Collector's.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.desc.info, c.desc.sandboxes, c.desc.memory, c.desc.oldImages, c.desc.starts, c.desc.failures,
		c.desc.phases, c.desc.leaks, c.desc.denials, c.desc.clashes, c.desc.scrape, c.desc.time,
	} {
		out <- d
	}
}

// Collect is prometheus.Collector's. A source that cannot be read costs its own metrics alone.
// Whether it could be read is a metric too: a missing number looks like a zero in a graph.
func (c collector) Collect(out chan<- prometheus.Metric) {
	// A value of 1 with the version as a label is the form that dashboards join on.
	out <- prometheus.MustNewConstMetric(c.desc.info, prometheus.GaugeValue, 1, stamp.Version)
	out <- prometheus.MustNewConstMetric(c.desc.time, prometheus.GaugeValue, float64(time.Now().UnixMilli())/1000)
	for _, source := range []struct {
		name string
		read func(chan<- prometheus.Metric) error
	}{
		{"records", c.records}, {"counts", c.counts}, {"labels", c.labels}, {"denials", c.denials},
	} {
		// The error itself is not printed: scrape_success is what alerts look at.
		success := 1.0
		if source.read(out) != nil {
			success = 0
		}
		out <- prometheus.MustNewConstMetric(c.desc.scrape, prometheus.GaugeValue, success, source.name)
	}
}

// records reads state, class and memory of all sandboxes.
func (c collector) records(out chan<- prometheus.Metric) error {
	boxes, err := c.site.sandboxes()
	if err != nil {
		return err
	}
	type kind struct{ state, class string }
	// Every combination is sent, with zero too: an alert on a series that is not there never fires.
	count := map[kind]int{}
	for _, state := range []string{stateRunning, stateStarting, stateEnded, stateDead, stateUnknown} {
		count[kind{state, classVM}], count[kind{state, classProcess}] = 0, 0
	}
	var used memory
	old := 0
	for _, b := range boxes {
		state := b.state()
		count[kind{state, b.class()}]++
		// Proportional set size reads smaps_rollup of each process, which is the costly part.
		m := c.site.memory(b)
		used.QEMU, used.Virtiofsd, used.Shim = used.QEMU+m.QEMU, used.Virtiofsd+m.Virtiofsd, used.Shim+m.Shim
		used.Containers += m.Containers
		// Others have no image any more or have not loaded one.
		if state == stateRunning && b.image().Old {
			old++
		}
	}
	for k, n := range count {
		out <- prometheus.MustNewConstMetric(c.desc.sandboxes, prometheus.GaugeValue, float64(n), k.state, k.class)
	}
	for part, bytes := range map[string]int64{
		"qemu": used.QEMU, "virtiofsd": used.Virtiofsd, "shim": used.Shim, "containers": used.Containers,
	} {
		out <- prometheus.MustNewConstMetric(c.desc.memory, prometheus.GaugeValue, float64(bytes), part)
	}
	out <- prometheus.MustNewConstMetric(c.desc.oldImages, prometheus.GaugeValue, float64(old))
	return nil
}

// Classes of sandboxes.
const (
	classVM      = "vm"
	classProcess = "process"
)

// class is vm for a record that does not say, and for an unknown name: records are input here. A
// tampered record must not make a new label value.
func (b guestBox) class() string {
	if b.record.Facts["class"] == classProcess {
		return classProcess
	}
	return classVM
}

// counts reads what shims have counted. They are files beside the records, since a record is gone
// with its sandbox.
func (c collector) counts(out chan<- prometheus.Metric) error {
	counts, err := tally.Load(c.site.config.State)
	if err != nil {
		return err
	}
	// A dead shim's leftovers, as gc or the next start found them.
	out <- prometheus.MustNewConstMetric(c.desc.leaks, prometheus.CounterValue, float64(counts.Leaks))
	// A class without a start has a counter of zero.
	for _, class := range []string{classVM, classProcess} {
		if _, found := counts.Starts[class]; !found {
			out <- prometheus.MustNewConstMetric(c.desc.starts, prometheus.CounterValue, 0, class)
		}
	}
	for class, n := range counts.Starts {
		out <- prometheus.MustNewConstMetric(c.desc.starts, prometheus.CounterValue, float64(n), class)
	}
	// Reasons are a fixed set, chosen by the shim and not taken from an error's text.
	for phase, reasons := range counts.Failures {
		for reason, n := range reasons {
			out <- prometheus.MustNewConstMetric(c.desc.failures, prometheus.CounterValue, float64(n), phase, reason)
		}
	}
	bounds := tally.Bounds()
	for phase, h := range counts.Phases {
		// Prometheus wants cumulative counts and seconds; the files have counts of each bucket and
		// milliseconds.
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, n := range h.Buckets {
			sum += n
			buckets[float64(bounds[i])/1000] = sum
		}
		out <- prometheus.MustNewConstHistogram(c.desc.phases, h.Count, float64(h.SumMs)/1000, buckets, phase)
	}
	return nil
}

// labels counts clashes, which should be zero on every host: an alert on it is the cheapest watch
// on the registry.
func (c collector) labels(out chan<- prometheus.Metric) error {
	p, err := c.site.look(context.Background())
	if err != nil {
		return err
	}
	out <- prometheus.MustNewConstMetric(c.desc.clashes, prometheus.GaugeValue, float64(len(p.Clashes)))
	return nil
}

// denials are those that the log holds now: the number falls when the log is rotated. A host
// without SELinux may have none that can be read.
func (c collector) denials(out chan<- prometheus.Metric) error {
	enabled, err := c.site.host.Enabled()
	if err != nil {
		return err
	}
	logged, err := c.site.denials("")
	if err != nil && enabled {
		return err
	}
	// As why has it, so that both count alike.
	view := scene{state: c.site.config.State, root: c.site.config.Root, image: c.site.config.Guest.Image}
	if enabled {
		p, err := c.site.look(context.Background())
		if err != nil {
			return err
		}
		view.levels, view.files = p.Levels, p.Files
	}
	// All verdicts are sent, with zero too.
	count := map[judgement]int{judgedAttack: 0, judgedMistake: 0, judgedHarmless: 0}
	for _, d := range logged {
		if (subject{all: true}).has(d) {
			count[view.explain(d).Judgement]++
		}
	}
	for verdict, n := range count {
		out <- prometheus.MustNewConstMetric(c.desc.denials, prometheus.GaugeValue, float64(n), string(verdict))
	}
	return nil
}
