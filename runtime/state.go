// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a process (a container's first one, or an exec) stands.
type State uint8

// The states of a process. Deleted is final: the id is free again.
const (
	Created State = iota
	Running
	Paused
	Stopped
	Deleted
)

// String is the state's name as runc's users know it.
func (s State) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Paused:
		return "paused"
	case Stopped:
		return "stopped"
	case Deleted:
		return "deleted"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Event is what happens to a process. It is an event of the state table, not one of containerd's.
type Event uint8

// The events that move a process from state to state.
const (
	Start Event = iota
	Pause
	Resume
	Exit
	Delete
)

// String is the event's name for error messages.
func (e Event) String() string {
	switch e {
	case Start:
		return "start"
	case Pause:
		return "pause"
	case Resume:
		return "resume"
	case Exit:
		return "exit"
	case Delete:
		return "delete"
	}
	return fmt.Sprintf("event %d", uint8(e))
}

// transition is a state and what happens in it.
type transition struct {
	from State
	on   Event
}

// next is the whole life of a process: a pair that is not here is illegal and gives
// ErrFailedPrecondition with both names. A container that was created can be deleted and can die;
// one that is paused cannot be deleted.
func next(from State, on Event) (State, error) {
	to, ok := map[transition]State{
		{Created, Start}:  Running,
		{Created, Exit}:   Stopped,
		{Created, Delete}: Deleted,
		{Running, Pause}:  Paused,
		{Running, Exit}:   Stopped,
		{Paused, Resume}:  Running,
		{Paused, Exit}:    Stopped,
		{Stopped, Delete}: Deleted,
	}[transition{from, on}]
	if !ok {
		return from, fmt.Errorf("%s a process that is %s: %w", on, from, errdefs.ErrFailedPrecondition)
	}
	return to, nil
}
