// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"context"
	"errors"
	"syscall"

	"github.com/containerd/errdefs"
)

// version is that of the file's form. A file of another version is replaced.
const version = 1

// Bounds are the upper limits of a histogram's buckets in milliseconds. A longer duration is only
// in Count and SumMs. They reach from a step of a start on a fast host to the limit of a boot.
func Bounds() [buckets]int64 {
	return [buckets]int64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000}
}

const buckets = 15

// Histogram counts durations. Buckets are not cumulative, as Prometheus's are: who prints them adds
// them up.
type Histogram struct {
	Buckets [buckets]uint64 `json:"buckets"` // durations at most Bounds()[i], and above the bound before
	Count   uint64          `json:"count"`
	SumMs   int64           `json:"sumMs"`
}

// Counts are those of a host since it booted. No name of a sandbox, tenant or image is in it:
// metrics with such labels would grow without end.
type Counts struct {
	Version  int                          `json:"version"`
	Starts   map[string]uint64            `json:"starts,omitempty"`   // that succeeded, by class
	Failures map[string]map[string]uint64 `json:"failures,omitempty"` // by phase, then by reason
	Phases   map[string]*Histogram        `json:"phases,omitempty"`   // of starts
	Leaks    uint64                       `json:"leaks,omitempty"`    // sandboxes that a dead shim left and that were cleaned up
}

// maxNames bounds the classes and phases. Further ones are counted as other. An annotation or a
// fault must not make the file grow.
const maxNames = 32

// other is the name of what is beyond maxNames, and the reason that has no name.
const other = "other"

// Started counts a start that succeeded. The methods are called from within Add, under its lock.
func (c *Counts) Started(class string) {
	if c.Starts == nil {
		c.Starts = map[string]uint64{}
	}
	c.Starts[bounded(c.Starts, class)]++
}

// Failed counts a start that failed in a phase. The error's text is not kept, since it may have a
// user's names.
func (c *Counts) Failed(phase string, err error) {
	if c.Failures == nil {
		c.Failures = map[string]map[string]uint64{}
	}
	phase = bounded(c.Failures, phase)
	if c.Failures[phase] == nil {
		c.Failures[phase] = map[string]uint64{}
	}
	c.Failures[phase][Reason(err)]++
}

// Took counts how long a phase of a start took.
func (c *Counts) Took(phase string, ms int64) {
	if c.Phases == nil {
		c.Phases = map[string]*Histogram{}
	}
	phase = bounded(c.Phases, phase)
	h := c.Phases[phase]
	if h == nil {
		h = &Histogram{}
		c.Phases[phase] = h
	}
	h.Count++
	h.SumMs += ms
	for i, bound := range Bounds() {
		if ms <= bound {
			h.Buckets[i]++
			break
		}
	}
}

// bounded is name, or other if that is one too many.
func bounded[V any](m map[string]V, name string) string {
	if _, known := m[name]; !known && len(m) >= maxNames {
		return other
	}
	return name
}

// Reason is the class of an error, one of a fixed set. The first that fits counts, so the order is
// from the cause to the symptom: a timeout while a file was missing is a timeout.
func Reason(err error) string {
	for _, r := range []struct {
		class  error
		reason string
	}{
		{context.DeadlineExceeded, "timeout"},
		{context.Canceled, "canceled"},
		{syscall.ENOSPC, "resources"},
		{syscall.EMFILE, "resources"},
		{syscall.ENFILE, "resources"},
		{syscall.ENOMEM, "resources"},
		{syscall.EAGAIN, "resources"},
		{errdefs.ErrResourceExhausted, "resources"},
		{errdefs.ErrInvalidArgument, "invalid"},
		{errdefs.ErrNotImplemented, "unsupported"},
		{errdefs.ErrAlreadyExists, "exists"},
		{errdefs.ErrPermissionDenied, "permission"},
		{syscall.EACCES, "permission"},
		{syscall.EPERM, "permission"},
		{errdefs.ErrFailedPrecondition, "precondition"},
		{errdefs.ErrNotFound, "missing"},
		{syscall.ENOENT, "missing"},
		{errdefs.ErrDataLoss, "damaged"},
		{errdefs.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, r.class) {
			return r.reason
		}
	}
	return other
}
