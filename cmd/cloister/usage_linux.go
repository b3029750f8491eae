// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"cloister/sandbox/statedir"
	"cloister/sys"
)

// usage is what a sandbox uses of the host, by two looks at its processes. CPU may be above 100
// with several processors. Names of the JSON are a contract.
type usage struct {
	Namespace  statedir.ID `json:"namespace"`
	ID         statedir.ID `json:"id"`
	Class      string      `json:"class"`
	State      string      `json:"state"`
	Phase      string      `json:"phase,omitempty"` // the last one of its record
	CPU        float64     `json:"cpuPercent"`      // of one processor
	Memory     int64       `json:"memoryBytes"`     // resident, of all its processes
	Read       float64     `json:"readBytesPerSecond"`
	Written    float64     `json:"writtenBytesPerSecond"`
	Label      string      `json:"label,omitempty"`
	AgeSeconds int64       `json:"ageSeconds"`
}

// name is NAMESPACE/ID, by which rows with equal values are ordered.
func (u usage) name() string { return string(u.Namespace) + "/" + string(u.ID) }

// counted are a process's counters. They count from the process's start and never fall.
type counted struct {
	cpu           float64 // seconds
	read, written uint64  // bytes from and to disks
}

// counters are those of all processes of sandboxes at one time. A process is named with its start
// time, so that a pid that is used again does not give a huge rate.
type counters struct {
	at   time.Time
	each map[sys.Process]counted
}

// processes are those that the sandbox runs on the host. The shim is one of them: it works for the
// sandbox alone, or for its pod.
func (b guestBox) processes() []sys.Process {
	list := []sys.Process{b.process(programQEMU), b.process(programVirtiofsd), b.record.Owner}
	for _, pid := range b.members() {
		if p, err := sys.ProcessOf(pid); err == nil { // else it has ended meanwhile
			list = append(list, p)
		}
	}
	return slices.DeleteFunc(list, func(p sys.Process) bool { return p == (sys.Process{}) })
}

// usages looks at all sandboxes. Rates are since the counters of before; the first look has none.
// It runs through the records once; what a process did after its own look counts in the next one.
func (s *site) usages(before counters) ([]usage, counters, error) {
	boxes, err := s.sandboxes()
	if err != nil {
		return nil, before, err
	}
	proc, err := procfs.NewFS(s.path("proc"))
	if err != nil {
		return nil, before, err
	}
	now := counters{at: time.Now(), each: map[sys.Process]counted{}}
	list := make([]usage, 0, len(boxes))
	for _, b := range boxes {
		list = append(list, look(proc, b, before, now))
	}
	return list, now, nil
}

// look adds up the processes of one sandbox, and notes their counters in now. A process that ends
// meanwhile counts nothing. A process seen for the first time has no rate yet.
func look(proc procfs.FS, b guestBox, before, now counters) usage {
	r := b.record
	u := usage{
		Namespace: b.dir.Namespace(), ID: b.dir.ID(), Class: b.class(), State: b.state(), Label: r.Facts["label"],
		Phase: lastPhase(r), AgeSeconds: int64(now.at.Sub(r.Created).Seconds()),
	}
	seconds := now.at.Sub(before.at).Seconds()
	for _, process := range b.processes() {
		// A dead process has no counters.
		if !running(process) {
			continue
		}
		p, err := proc.Proc(process.PID)
		if err != nil {
			continue
		}
		c, memory := countersOf(p)
		now.each[process] = c
		u.Memory += memory
		if was, known := before.each[process]; known && seconds > 0 {
			// Counters of one process do not fall; max guards against rounding.
			u.CPU += 100 * max(0, c.cpu-was.cpu) / seconds
			u.Read += float64(c.read-was.read) / seconds
			u.Written += float64(c.written-was.written) / seconds
		}
	}
	return u
}

// countersOf reads a process's counters and its resident memory. What this user may not see is 0.
// Reads and writes need root for processes of other users.
func countersOf(p procfs.Proc) (c counted, memory int64) {
	if stat, err := p.Stat(); err == nil {
		c.cpu, memory = stat.CPUTime(), int64(stat.ResidentMemory())
	}
	if io, err := p.IO(); err == nil {
		c.read, c.written = io.ReadBytes, io.WriteBytes
	}
	return c, memory
}

// lastPhase is the phase of which the record says that it ended last. The record keeps the first
// phases and the last ones; the last ones are in Recent.
func lastPhase(r statedir.Record) string {
	if n := len(r.Recent); n > 0 {
		return r.Recent[n-1].Name
	}
	if n := len(r.Phases); n > 0 {
		return r.Phases[n-1].Name
	}
	return ""
}

// order is how a list of usages may be sorted: the column's name, the key that asks for it, and
// which of two comes first. Ties are ordered by name, so that rows do not jump.
type order struct {
	name string
	key  byte
	less func(a, b usage) int
}

// orders are the columns that one can sort by; large numbers come first.
func orders() []order {
	down := func(of func(usage) float64) func(a, b usage) int {
		return func(a, b usage) int {
			switch x, y := of(a), of(b); {
			case x > y:
				return -1
			case x < y:
				return 1
			}
			return strings.Compare(a.name(), b.name())
		}
	}
	return []order{
		{"cpu", 'c', down(func(u usage) float64 { return u.CPU })},
		{"memory", 'm', down(func(u usage) float64 { return float64(u.Memory) })},
		{"io", 'i', down(func(u usage) float64 { return u.Read + u.Written })},
		{"age", 'a', down(func(u usage) float64 { return float64(u.AgeSeconds) })},
		{"name", 'n', func(a, b usage) int { return strings.Compare(a.name(), b.name()) }},
		{"phase", 'p', func(a, b usage) int { return strings.Compare(a.Phase+"/"+a.name(), b.Phase+"/"+b.name()) }},
		{"label", 'l', func(a, b usage) int { return strings.Compare(a.Label+"/"+a.name(), b.Label+"/"+b.name()) }},
	}
}
