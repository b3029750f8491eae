// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Sensitivities is how many sensitivities are accepted: s0 to s15; targeted policies have s0 alone.
const Sensitivities = 16

// ErrTranslated is wrapped where text looks like a translated level, as a running mcstransd shows
// them.
var ErrTranslated = errors.New("looks translated: give the raw form, as in s0:c1,c2 (mcstransd shows names instead; chcat -L lists them)")

// Sensitivity is one of s0 to s15.
type Sensitivity uint8

// String writes "s0".
func (s Sensitivity) String() string { return "s" + strconv.Itoa(int(s)) }

// Level is a sensitivity and a set of categories. The zero value is s0, the system's low.
type Level struct {
	Sensitivity Sensitivity
	Categories  Set
}

// NewLevel is the level of one pair.
func NewLevel(s Sensitivity, p Pair) Level { return Level{Sensitivity: s, Categories: p.Set()} }

// ParseLevel reads "s0", "s0:c1,c3.c5".
func ParseLevel(text string) (Level, error) {
	if len(text) > maxText {
		return Level{}, fmt.Errorf("level of %d bytes: at most %d are read", len(text), maxText)
	}
	sens, cats, has := strings.Cut(text, ":")
	n, err := number(sens, 's')
	if err != nil {
		return Level{}, fmt.Errorf("level %q: sensitivity: %w: %w", clip(text), err, ErrTranslated)
	}
	if n >= Sensitivities {
		return Level{}, fmt.Errorf("level %q: sensitivity: want s0 to s%d", clip(text), Sensitivities-1)
	}
	level := Level{Sensitivity: Sensitivity(n)}
	if !has {
		return level, nil
	}
	if level.Categories, err = ParseSet(cats); err != nil {
		return Level{}, fmt.Errorf("level %q: %w", clip(text), err)
	}
	return level, nil
}

// String writes the level as the kernel does.
func (l Level) String() string {
	if l.Categories == (Set{}) {
		return l.Sensitivity.String()
	}
	return l.Sensitivity.String() + ":" + l.Categories.String()
}

// Dominates tells whether l may read o: at least its sensitivity and all of its categories. A level
// dominates itself.
func (l Level) Dominates(o Level) bool {
	return l.Sensitivity >= o.Sensitivity && l.Categories.Contains(o.Categories)
}

// Pair gives the pair of a level that has exactly two categories.
func (l Level) Pair() (Pair, bool) {
	if l.Categories.Len() != 2 {
		return Pair{}, false
	}
	all := l.Categories.All()
	return Pair{Low: all[0], High: all[1]}, true
}

// Separates refuses a level that does not keep one tenant from another: one category lies within
// every pair that has it, three or more contain other tenants' pairs, and s0 alone is everybody's.
// Only those who share a level by name (shared) may use a wide one, or s0 alone. A sensitivity
// above s0 alone is the administrator's choice under MLS.
func (l Level) Separates(shared bool) error {
	switch n := l.Categories.Len(); {
	case n == 1:
		return fmt.Errorf("%v has one category, and other tenants' pairs may contain it: give two", l)
	case n == 0 && l.Sensitivity == 0 && !shared:
		return fmt.Errorf("%v has no categories, so it separates nothing: give two, or share it by name", l)
	case n > 2 && !shared:
		return fmt.Errorf("%v has %d categories and contains other tenants' pairs: give two", l, n)
	}
	return nil
}

// Clashes tells whether two tenants must not hold l and o at once: the categories of one lie within
// the other's. Sensitivity does not separate two tenants that share categories, since the higher
// one could read the lower. Levels without categories clash when they are the same.
func (l Level) Clashes(o Level) bool {
	none := Set{}
	if l.Categories == none || o.Categories == none {
		return l == o
	}
	return l.Categories.Contains(o.Categories) || o.Categories.Contains(l.Categories)
}

// Range is a low and a high level. The zero value is s0.
type Range struct {
	Low, High Level
}

// At is the range of one level.
func At(l Level) Range { return Range{Low: l, High: l} }

// ParseRange reads a level, or two with a dash between; the high one must dominate the low one.
func ParseRange(text string) (Range, error) {
	low, high, has := strings.Cut(text, "-")
	l, err := ParseLevel(low)
	if err != nil {
		return Range{}, err
	}
	if !has {
		return At(l), nil
	}
	h, err := ParseLevel(high)
	if err != nil {
		return Range{}, err
	}
	if !h.Dominates(l) {
		return Range{}, fmt.Errorf("range %q: %v does not dominate %v", clip(text), h, l)
	}
	return Range{Low: l, High: h}, nil
}

// String writes one level when both are the same.
func (r Range) String() string {
	if r.Low == r.High {
		return r.Low.String()
	}
	return r.Low.String() + "-" + r.High.String()
}

// Single gives the level of a range that has one.
func (r Range) Single() (Level, bool) { return r.Low, r.Low == r.High }

// MarshalText writes the level as String does.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what ParseLevel reads.
func (l *Level) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLevel(string(text))
	return err
}
