// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"fmt"

	"cloister/labels"
)

// taken are levels that somebody carries on this host, whether the registry knows of it or not.
type taken struct {
	pairs map[labels.Pair]int // and the pid that carries it, 0 for none
	other []labels.Process    // carry something else than a pair
}

// look asks what runs on the host and what files still carry. It is called without the lock.
func (r *Registry) look(ctx context.Context) (*taken, error) {
	t := &taken{pairs: map[labels.Pair]int{}}
	if r.options.Held != nil {
		held, err := r.options.Held()
		if err != nil {
			return nil, fmt.Errorf("look for levels that files carry: %w", err)
		}
		for _, level := range held {
			t.add(labels.Process{Label: labels.Label{Range: labels.At(level)}})
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
		if high := p.Label.Range.High; high.Categories != (labels.Set{}) && !r.options.Range.covers(high) {
			t.add(p)
		}
	}
	return t, nil
}

func (t *taken) add(p labels.Process) {
	if pair, ok := p.Label.Range.High.Pair(); ok {
		t.pairs[pair] = p.PID
		return
	}
	t.other = append(t.other, p)
}

// clash finds a process that carries something that clashes with level.
func (t *taken) clash(level labels.Level) (labels.Process, bool) {
	if pair, ok := level.Pair(); ok {
		if pid, found := t.pairs[pair]; found {
			return labels.Process{PID: pid, Label: labels.Label{Range: labels.At(level)}}, true
		}
	} else {
		for pair, pid := range t.pairs {
			if level.Clashes(labels.NewLevel(level.Sensitivity, pair)) {
				return labels.Process{PID: pid, Label: labels.Label{Range: labels.At(labels.NewLevel(level.Sensitivity, pair))}}, true
			}
		}
	}
	for _, p := range t.other {
		if p.Label.Range.High.Clashes(level) {
			return p, true
		}
	}
	return labels.Process{}, false
}

// LookAgain lists the processes that carry something that clashes with level and are not ours. It
// is asked when our own label is visible and the guest has not run yet: another engine may have
// drawn the pair at the same time.
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
