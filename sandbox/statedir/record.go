// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// version is that of the record's form.
const version = 1

// Record is what is known of a sandbox on disk.
type Record struct {
	Version   int       `json:"version"`
	Namespace ID        `json:"namespace"`
	ID        ID        `json:"id"`
	Bundle    string    `json:"bundle,omitempty"`
	BootID    string    `json:"bootId"` // the host's boot in which it was made
	Owner     Process   `json:"owner"`  // the shim
	Created   time.Time `json:"created"`
	// Facts say what the sandbox runs on: kernel, guest image, machine, accel,
	// label, ... by name. They are for people and tools.
	Facts   map[string]string `json:"facts,omitempty"`
	Phases  []Phase           `json:"phases,omitempty"`
	Effects []Effect          `json:"effects,omitempty"`
	// Next is the sequence number of the next effect.
	Next int `json:"next"`
}

// Phase is one part of a start: milliseconds since Created.
type Phase struct {
	Name       string `json:"name"`
	OffsetMs   int64  `json:"offsetMs"`
	DurationMs int64  `json:"durationMs"`
}

// Kind says what an effect is, and so who can take it back.
type Kind string

// The kinds. All but Reservation, Relabel and Folder are gone after a reboot.
const (
	KindProcess     Kind = "process"     // Process; Detail is its Marker while the pid is unknown
	KindMount       Kind = "mount"       // Path: target
	KindTap         Kind = "tap"         // Path: namespace, Detail: link name
	KindLink        Kind = "link"        // Path: namespace, Detail: link name
	KindCgroup      Kind = "cgroup"      // Path: the leaf, as sandbox/cgroup prints it
	KindNetNS       Kind = "netns"       // Path: where it is kept
	KindSocket      Kind = "socket"      // Path
	KindReservation Kind = "reservation" // Detail: the level
	KindRelabel     Kind = "relabel"     // Path: the undo journal
	KindFolder      Kind = "folder"      // Path
)

// volatile says that a reboot takes the effect back.
func (k Kind) volatile() bool {
	return k != KindReservation && k != KindRelabel && k != KindFolder
}

// Effect is one thing that the sandbox did, or is about to do, to the host.
type Effect struct {
	Seq     int     `json:"seq"`
	Kind    Kind    `json:"kind"`
	Path    string  `json:"path,omitempty"`
	Detail  string  `json:"detail,omitempty"`
	Process Process `json:"process,omitzero"`
	// Done: it has happened. An effect that is only promised may have
	// happened too: taking it back must succeed when there is nothing.
	Done bool `json:"done,omitempty"`
}

// String names the effect for an error.
func (e Effect) String() string {
	s := string(e.Kind)
	if e.Process.Pid != 0 {
		s += fmt.Sprintf(" %d", e.Process.Pid)
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
func (r Record) clone() Record {
	r.Facts = maps.Clone(r.Facts)
	r.Phases = slices.Clone(r.Phases)
	r.Effects = slices.Clone(r.Effects)
	return r
}
