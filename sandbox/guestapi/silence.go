// SPDX-License-Identifier: Apache-2.0

package guestapi

import "time"

const (
	// maxSilence bounds a call that nobody else bounds: an agent that is alive is far quicker. Who
	// hears nothing for so long ends it all, since no task could be stopped otherwise.
	maxSilence = 2 * time.Minute
	// silenceCap bounds, as a multiple, how long a guest is waited for that gets no processor.
	silenceCap = 10
	// silenceStep is the least time between two looks.
	silenceStep = time.Second
)

// silence waits until a call has gone without an answer for too long. Time in which a guest is
// starved does not count, once the first half is over.
type silence struct {
	*time.Timer // nil channel for a call that waits for something to happen
	starved     func() time.Duration
	half        time.Time     // when the first half was over
	before      time.Duration // starved until then
}

// newSilence begins to wait. Events and Wait are not bounded: they wait for something to happen in
// the guest.
func newSilence(method string, starved func() time.Duration) *silence {
	switch {
	case method == "Events" || method == "Wait":
		return &silence{Timer: &time.Timer{}}
	case starved == nil:
		return &silence{Timer: time.NewTimer(maxSilence)}
	}
	return &silence{Timer: time.NewTimer(maxSilence / 2), starved: starved}
}

// over is asked when the timer has fired, which it does again if the answer is no. Asking how long
// a guest was starved reads files of /proc, so it is not asked about calls that are quick.
func (s *silence) over() bool {
	if s.starved == nil {
		return true
	}
	if s.half.IsZero() {
		s.half, s.before = time.Now(), s.starved()
	}
	passed, lost := time.Since(s.half), max(0, s.starved()-s.before)
	left := min(maxSilence/2-(passed-lost), silenceCap*maxSilence-passed)
	if left <= 0 {
		return true
	}
	s.Reset(max(silenceStep, left))
	return false
}

// end lets the timer go.
func (s *silence) end() {
	if s.C != nil {
		s.Stop()
	}
}
