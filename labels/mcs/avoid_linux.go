// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"fmt"

	"cloister/labels"
)

// taken are levels that are carried on this host, whether the registry knows of it or not. Files
// are those of an earlier boot that could not be given their labels back, as on a volume that is
// not mounted. They are kept apart: who shares a level by name may meet processes there, and no
// files of others.
type taken struct {
	processes, files carried
}

// carried are the levels of processes, or of files, which have no pid.
type carried struct {
	pairs map[labels.Pair]int // and the pid that carries it, 0 for a file
	other []labels.Process    // carry something else than a pair
}

// look asks what runs on the host and what files still carry. It is called without the lock: a look
// at 1,000 processes takes about 20 ms, and every other sandbox of the host would wait for it. A
// pair that somebody else takes after the look is found by LookAgain.
func (r *Registry) look(ctx context.Context) (*taken, error) {
	t := &taken{processes: carried{pairs: map[labels.Pair]int{}}, files: carried{pairs: map[labels.Pair]int{}}}
	if r.options.Held != nil {
		held, err := r.options.Held()
		if err != nil {
			return nil, fmt.Errorf("look for levels that files carry: %w", err)
		}
		for _, level := range held {
			t.files.add(labels.Process{Label: labels.Label{Range: labels.At(level)}})
		}
	}
	if r.options.Scan == nil {
		return t, nil
	}
	processes, err := r.options.Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for levels that processes carry: %w", err)
	}
	for _, p := range processes {
		// A level without categories is the system's low, and one with all categories is the
		// system's high (an unconfined process has s0-s0:c0.c1023). Neither is a tenant's. Counting
		// the latter would leave no pair to draw, since it contains all of them.
		if high := p.Label.Range.High; high.Categories != (labels.Set{}) && !r.options.Range.covers(high) {
			t.processes.add(p)
		}
	}
	return t, nil
}

// add notes the high level of a process or file: that is what it may reach. Pairs are looked up,
// all else is compared one by one.
func (c *carried) add(p labels.Process) {
	if pair, ok := p.Label.Range.High.Pair(); ok {
		c.pairs[pair] = p.PID
		return
	}
	c.other = append(c.other, p)
}

// carries says that a process or file carries something that clashes with level.
func (t *taken) carries(level labels.Level) bool {
	_, running := t.processes.clash(level)
	_, kept := t.files.clash(level)
	return running || kept
}

func (c *carried) len() int { return len(c.pairs) + len(c.other) }

// clash finds a process or file that carries something that clashes with level.
func (c *carried) clash(level labels.Level) (labels.Process, bool) {
	// Two different pairs never lie within each other, so a lookup of the same pair suffices.
	if pair, ok := level.Pair(); ok {
		if pid, found := c.pairs[pair]; found {
			return labels.Process{PID: pid, Label: labels.Label{Range: labels.At(level)}}, true
		}
	} else {
		for pair, pid := range c.pairs {
			if level.Clashes(labels.NewLevel(level.Sensitivity, pair)) {
				return labels.Process{PID: pid, Label: labels.Label{Range: labels.At(labels.NewLevel(level.Sensitivity, pair))}}, true
			}
		}
	}
	for _, p := range c.other {
		if p.Label.Range.High.Clashes(level) {
			return p, true
		}
	}
	return labels.Process{}, false
}

// LookAgain lists the processes that carry something that clashes with level and are not ours.
// Engines do not share the registry, so two of them can draw one pair at the same time, each before
// the other's label is visible. LookAgain is called when our own label is visible and the guest has
// not run yet: whoever looks second sees the first. An error means that nobody could look, and the
// guest must not run.
func (r *Registry) LookAgain(ctx context.Context, level labels.Level, ours func(pid int) bool) ([]labels.Process, error) {
	if r.options.Scan == nil {
		return nil, nil
	}
	processes, err := r.options.Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("look again for level %v: %w", level, err)
	}
	var found []labels.Process
	for _, p := range processes {
		high := p.Label.Range.High
		if high.Categories == (labels.Set{}) || r.options.Range.covers(high) || !high.Clashes(level) {
			continue
		}
		if !ours(p.PID) {
			found = append(found, p)
		}
	}
	return found, nil
}
