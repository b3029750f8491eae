// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"cloister/sys"
)

// version is that of the record's form. Another one is unreadable, and rebuilt from what the host
// shows.
const version = 2

// Record is what is known of a sandbox on disk.
type Record struct {
	Version   int         `json:"version"`
	Namespace ID          `json:"namespace"`
	ID        ID          `json:"id"`
	Bundle    string      `json:"bundle,omitempty"`
	BootID    string      `json:"bootId"` // the host's boot in which it was made
	Owner     sys.Process `json:"owner"`  // the shim
	Created   time.Time   `json:"created"`
	// Facts say what the sandbox runs on: kernel, guest image, machine, accel,
	// label, ... by name. They are for people and tools.
	Facts map[string]string `json:"facts,omitempty"`
	// Phases are those of the start: the machine's and the first container's.
	Phases []Phase `json:"phases,omitempty"`
	// Recent are the last phases since then, oldest first.
	Recent  []Phase  `json:"recent,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
	// Ended is set once the machine has ended, while its shim still lives.
	Ended *Ended `json:"ended,omitempty"`
	// Next is the sequence number of the next effect.
	Next int `json:"next"`
}

// Ended says when a machine ended, and why; a machine that was asked to end has no reason.
type Ended struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Bounds of what a record keeps for people and tools, however long the sandbox lives.
const (
	maxPhases = 64      // of Phases and of Recent, each
	maxName   = 128     // bytes of a phase's or a fact's name
	maxFacts  = 64      // by number
	maxFact   = 4 << 10 // bytes of a fact's value
)

// Phase is one part of a start: milliseconds since Created.
type Phase struct {
	Name       string `json:"name"`
	OffsetMs   int64  `json:"offsetMs"`
	DurationMs int64  `json:"durationMs"`
}

// Kind says what an effect is, and so who can take it back. Values are on disk and do not change.
type Kind string

// The kinds. All but Reservation and Folder are gone after a reboot.
const (
	KindProcess     Kind = "process"     // Process; Detail is its Marker while the pid is unknown
	KindMount       Kind = "mount"       // Path: target
	KindTap         Kind = "tap"         // Path: namespace, Detail: link name
	KindLink        Kind = "link"        // Path: namespace, Detail: link name
	KindCgroup      Kind = "cgroup"      // Path: the leaf, as sandbox/cgroup prints it
	KindNetNS       Kind = "netns"       // Path: where it is kept
	KindSocket      Kind = "socket"      // Path
	KindReservation Kind = "reservation" // Detail: the sandbox's name in registry and journal
	KindFolder      Kind = "folder"      // Path
	KindContainer   Kind = "container"   // Path: the OCI runtime's folder of it, Detail: the runtime's program
)

// volatile says that a reboot takes the effect back.
func (k Kind) volatile() bool {
	return k != KindReservation && k != KindFolder
}

// Effect is one thing that the sandbox did, or is about to do, to the host. It says enough for
// another process to undo it, without anything that the first one had in memory.
type Effect struct {
	Seq     int         `json:"seq"`
	Kind    Kind        `json:"kind"`
	Path    string      `json:"path,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	Process sys.Process `json:"process,omitzero"`
	// Done: it has happened. An effect that is only promised may have
	// happened too: taking it back must succeed when there is nothing.
	Done bool `json:"done,omitempty"`
}

// String names the effect for an error.
func (e Effect) String() string {
	s := string(e.Kind)
	if e.Process.PID != 0 {
		s += fmt.Sprintf(" %d", e.Process.PID)
	}
	if e.Path != "" {
		s += " " + e.Path
	}
	if e.Detail != "" {
		s += " " + e.Detail
	}
	return s
}

// clone gives a copy that shares nothing.
func (r *Record) clone() Record {
	c := *r
	c.Facts = maps.Clone(r.Facts)
	c.Phases = slices.Clone(r.Phases)
	c.Recent = slices.Clone(r.Recent)
	c.Effects = slices.Clone(r.Effects)
	return c
}

// note adds what is new of facts and phases, within the bounds, and reports whether anything is.
// The first phases that are noted are the start's. Texts are clipped, since some of them are an
// engine's or a user's.
func (r *Record) note(facts map[string]string, phases []Phase) bool {
	news := len(phases) > 0
	for k, v := range facts {
		k, v = clip(k, maxName), clip(v, maxFact)
		if had, known := r.Facts[k]; known && had == v || !known && len(r.Facts) >= maxFacts {
			continue
		}
		if r.Facts == nil {
			r.Facts = map[string]string{}
		}
		r.Facts[k], news = v, true
	}
	if len(r.Phases) == 0 {
		r.Phases = phases
	} else {
		r.Recent = append(r.Recent, phases...)
	}
	r.trim()
	return news
}

// trim keeps the first phases of the start and the last ones since. A record of an
// earlier version may hold more.
func (r *Record) trim() {
	r.Phases = r.Phases[:min(len(r.Phases), maxPhases)]
	r.Recent = slices.Clone(r.Recent[max(0, len(r.Recent)-maxPhases):])
	for _, list := range [][]Phase{r.Phases, r.Recent} {
		for i := range list {
			list[i].Name = clip(list[i].Name, maxName)
		}
	}
}

// clip counts bytes and may cut a character.
func clip(s string, most int) string { return s[:min(len(s), most)] }
