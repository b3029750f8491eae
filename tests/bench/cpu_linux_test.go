// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/statedir"
)

// spent is the CPU time that each of the bed's programs has used up to some moment.
type spent struct {
	at time.Time
	by map[string]time.Duration
}

// meter looks at the CPU time of all processes of the bed until it is stopped.
type meter struct {
	proc    string
	threads map[string]time.Duration // the last value of each, by its path: it stays when the thread has ended
	whose   map[string]string        // the program of each
	stop    chan struct{}
	seen    chan []spent // all, once stopped
}

// look is how often. A look takes less than a millisecond.
const look = 5 * time.Millisecond

func (b *bench) meter() *meter {
	m := &meter{
		proc: b.Place.Path("/proc"), threads: map[string]time.Duration{}, whose: map[string]string{},
		stop: make(chan struct{}), seen: make(chan []spent, 1),
	}
	m.read() // what was used before counts for nobody
	go m.run()
	return m
}

func (m *meter) run() {
	tick := time.NewTicker(look)
	defer tick.Stop()
	all := []spent{m.read()}
	for {
		select {
		case <-tick.C:
			all = append(all, m.read())
		case <-m.stop:
			m.seen <- append(all, m.read())
			return
		}
	}
}

// done stops the meter and gives what it has seen.
func (m *meter) done() []spent {
	close(m.stop)
	return <-m.seen
}

// read looks once. Threads come and go meanwhile, so what cannot be read is left out.
func (m *meter) read() spent {
	s := spent{at: time.Now(), by: map[string]time.Duration{}}
	files, _ := filepath.Glob(filepath.Join(m.proc, "[0-9]*", "task", "[0-9]*", "schedstat"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		if err != nil {
			continue
		}
		m.threads[file] = time.Duration(ns)
		// A process is its maker's program until it executes its own.
		if name := program(file); name != "" {
			m.whose[file] = name
		}
	}
	for file, used := range m.threads {
		s.by[m.whose[file]] += used
	}
	return s
}

// program names what a thread belongs to: "guest" are QEMU's threads but the main one, which run
// the guest's instructions and a few requests for its devices; "others" is mainly the copier of a
// template's memory.
func program(schedstat string) string {
	task := filepath.Dir(schedstat)
	process := filepath.Dir(filepath.Dir(task))
	comm, err := os.ReadFile(filepath.Join(process, "comm"))
	if err != nil {
		return ""
	}
	switch name := strings.TrimSpace(string(comm)); {
	case strings.HasPrefix(name, "qemu-system"):
		if filepath.Base(task) == filepath.Base(process) {
			return "QEMU"
		}
		return "guest"
	case name == "virtiofsd", name == "containerd", name == "ctr":
		return name
	case strings.HasPrefix(name, "containerd-shim"):
		return "shim"
	default:
		return "others"
	}
}

// until is what was used up to a moment, between two looks in proportion.
func until(all []spent, at time.Time, who string) float64 {
	i, _ := slices.BinarySearchFunc(all, at, func(s spent, at time.Time) int { return s.at.Compare(at) })
	if i == 0 || i == len(all) {
		return float64(all[min(i, len(all)-1)].by[who])
	}
	a, b := all[i-1], all[i]
	part := float64(at.Sub(a.at)) / float64(b.at.Sub(a.at))
	return float64(a.by[who]) + part*float64(b.by[who]-a.by[who])
}

// whereCPU measures which program uses how much of the CPU in which phase of a start, cold and from
// a template.
func (b *bench) whereCPU(t *testing.T) {
	b.buildTemplate(t)
	b.result.CPUMs = map[string]map[string]Spread{}
	cells := map[string]map[string]Samples{"cold": {}, "template": {}}
	for i := range b.runs + 1 {
		for _, kind := range []string{"template", "cold"} {
			id := fmt.Sprint("cpu", kind, i)
			options := []string{"--detach"}
			if kind == "cold" {
				options = append(options, "--annotation", "io.cloister.start=cold")
			}
			m := b.meter()
			took(t, b.Bed, b.Args(id, options, "sleep", "1000")...)
			all := m.done()
			record := b.record(t, id)
			if from := record.Facts["start"]; !strings.HasPrefix(from, kind) {
				t.Fatalf("%s was started from %q", id, from)
			}
			b.stop(t, id, false)
			if i > 0 { // the first warms caches
				shares(cells[kind], all, record)
			}
		}
	}
	for kind, one := range cells {
		b.result.CPUMs[kind] = map[string]Spread{}
		for name, s := range one {
			// A cell that a run lacks was nothing in it.
			for len(s) < b.runs {
				s = append(s, 0)
			}
			b.result.CPUMs[kind][name] = s.Spread()
		}
	}
}

// shares adds what each program has used in each phase of a start. What lies between the phases is
// the client's and the engine's turn.
func shares(cells map[string]Samples, all []spent, r statedir.Record) {
	// The record is made in the phase promise, which takes a few milliseconds.
	var begun time.Time
	for _, p := range r.Phases {
		if p.Name == "promise" {
			begun = r.Created.Add(-time.Duration(p.OffsetMs) * time.Millisecond)
		}
	}
	last := all[len(all)-1]
	for _, who := range slices.Sorted(maps.Keys(last.by)) {
		rest := float64(last.by[who] - all[0].by[who])
		cells["all: "+who] = append(cells["all: "+who], round(rest/1e6))
		for _, p := range r.Phases {
			from := begun.Add(time.Duration(p.OffsetMs) * time.Millisecond)
			used := until(all, from.Add(time.Duration(p.DurationMs)*time.Millisecond), who) - until(all, from, who)
			rest -= used
			cells[p.Name+": "+who] = append(cells[p.Name+": "+who], round(used/1e6))
		}
		cells["between: "+who] = append(cells["between: "+who], round(rest/1e6))
	}
}

// largest are the names of a start's cells with a millisecond or more, the largest first.
func largest(cells map[string]Spread) []string {
	names := slices.SortedFunc(maps.Keys(cells), func(a, b string) int {
		return cmp.Or(cmp.Compare(cells[b].Median, cells[a].Median), strings.Compare(a, b))
	})
	return slices.DeleteFunc(names, func(name string) bool { return cells[name].Median < 1 })
}
