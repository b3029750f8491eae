// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"fmt"

	"cloister/labels"
)

// minCategories is what libvirt asks for: fewer give too few pairs to draw from. 8 give 28 pairs.
const minCategories = 8

// Range is what pairs are drawn from: the categories Min to Max, both included, at one sensitivity.
// A host whose other engines have a range of their own can be given a separate one.
type Range struct {
	Sensitivity labels.Sensitivity
	Min, Max    labels.Category
}

// Whole is every category at s0.
func Whole() Range { return Range{Max: labels.Categories - 1} }

// RangeOf takes the range from the daemon's own label as libvirt does: its low sensitivity, and the
// categories of its low level or else of its high one, which must be one span; none means all. A
// process confined to some categories may hand out no others.
func RangeOf(own labels.Label) (Range, error) {
	r, err := rangeOf(own.Range)
	if err != nil {
		return Range{}, fmt.Errorf("range of %v: %w", own, err)
	}
	return r, nil
}

// ParseRange reads the config's text, as in "s0:c100.c199". A range with gaps or with fewer than 8
// categories is an error. Text without categories means all of them.
func ParseRange(text string) (Range, error) {
	level, err := labels.ParseLevel(text)
	if err != nil {
		return Range{}, fmt.Errorf("range of categories: %w", err)
	}
	r, err := rangeOf(labels.At(level))
	if err != nil {
		return Range{}, fmt.Errorf("range %q: %w", text, err)
	}
	return r, nil
}

// rangeOf takes the low level's categories, as libvirt does, and the high level's where the low one
// has none.
func rangeOf(r labels.Range) (Range, error) {
	categories := r.Low.Categories
	if categories == (labels.Set{}) {
		categories = r.High.Categories
	}
	if categories == (labels.Set{}) {
		whole := Whole()
		whole.Sensitivity = r.Low.Sensitivity
		return whole, nil
	}
	all := categories.All()
	low, high := all[0], all[len(all)-1]
	if int(high-low)+1 != len(all) {
		return Range{}, fmt.Errorf("its categories are not one span: set a range in the config, as in s0:c0.c1023")
	}
	if len(all) < minCategories {
		return Range{}, fmt.Errorf("it has %d categories, at least %d are wanted: set a range in the config, as in s0:c0.c1023",
			len(all), minCategories)
	}
	return Range{Sensitivity: r.Low.Sensitivity, Min: low, Max: high}, nil
}

// Pairs is how many pairs there are: 523,776 in the whole range.
func (r Range) Pairs() int {
	n := int(r.Max-r.Min) + 1
	return n * (n - 1) / 2
}

// String writes "s0:c0.c1023".
func (r Range) String() string { return fmt.Sprintf("%v:%v.%v", r.Sensitivity, r.Min, r.Max) }

// check refuses what is no range of at least minCategories, as a Range that was not parsed may be.
func (r Range) check() error {
	if r.Max >= labels.Categories || r.Min > r.Max || int(r.Max-r.Min)+1 < minCategories {
		return fmt.Errorf("range %v: want at least %d categories of c0 to c%d", r, minCategories, labels.Categories-1)
	}
	return nil
}

// covers tells whether a level has all of the range's categories: such a level is the system's and
// no tenant's. An administrator's shell and most daemons have it as their high level.
func (r Range) covers(level labels.Level) bool {
	for c := r.Min; c <= r.Max; c++ {
		if !level.Categories.Has(c) {
			return false
		}
	}
	return true
}
