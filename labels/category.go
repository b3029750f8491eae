// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Categories is how many categories a policy has: c0 to c1023 in every policy this was read for. A
// policy with fewer refuses the label (lsm.Host.Valid).
const Categories = 1024

// Category is one of c0 to c1023.
type Category uint16

// NewCategory refuses what no policy has. All other constructors and parsers go through it.
func NewCategory(n int) (Category, error) {
	if n < 0 || n >= Categories {
		return 0, fmt.Errorf("category c%d: want c0 to c%d", n, Categories-1)
	}
	return Category(n), nil
}

// ParseCategory reads "c12".
func ParseCategory(text string) (Category, error) {
	n, err := number(text, 'c')
	if err != nil {
		return 0, fmt.Errorf("category %q: %w", clip(text), err)
	}
	return NewCategory(n)
}

// String writes "c12".
func (c Category) String() string { return "c" + strconv.Itoa(int(c)) }

// Set is a set of categories. The zero value is empty.
type Set struct {
	words [Categories / 64]uint64
}

// NewSet holds the categories given.
func NewSet(categories ...Category) Set {
	var s Set
	for _, c := range categories {
		s = s.with(c)
	}
	return s
}

// ParseSet reads every written form: "c1", "c1,c3.c5", in any order; a span must rise. The kernel
// writes spans and libraries write lists, so two texts can mean one set: sets are compared, never
// their text.
func ParseSet(text string) (Set, error) {
	var s Set
	for part := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(part, ".")
		low, err := ParseCategory(first)
		if err != nil {
			return Set{}, err
		}
		high := low
		if span {
			if high, err = ParseCategory(last); err != nil {
				return Set{}, err
			}
			if high <= low {
				return Set{}, fmt.Errorf("categories %q: want a rising span, as c3.c5", clip(part))
			}
		}
		for c := low; c <= high; c++ {
			s = s.with(c)
		}
	}
	return s, nil
}

// with is a copy of s that has c too; a Set is a value.
func (s Set) with(c Category) Set {
	s.words[c/64] |= 1 << (c % 64)
	return s
}

// Has tells whether c is in the set.
func (s Set) Has(c Category) bool { return c < Categories && s.words[c/64]&(1<<(c%64)) != 0 }

// Len is the number of categories.
func (s Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Contains tells whether every category of o is in s.
func (s Set) Contains(o Set) bool {
	for i, w := range o.words {
		if w&^s.words[i] != 0 {
			return false
		}
	}
	return true
}

// Overlaps tells whether s and o share a category.
func (s Set) Overlaps(o Set) bool {
	for i, w := range o.words {
		if w&s.words[i] != 0 {
			return true
		}
	}
	return false
}

// All lists the categories in rising order.
func (s Set) All() []Category {
	all := make([]Category, 0, s.Len())
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			all = append(all, Category(i*64+bits.TrailingZeros64(w)))
		}
	}
	return all
}

// String writes the set as the kernel does: two neighbours with a comma, three or more as a span.
func (s Set) String() string {
	var b strings.Builder
	all := s.All()
	for i := 0; i < len(all); {
		last := i
		for last+1 < len(all) && all[last+1] == all[last]+1 {
			last++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(all[i].String())
		switch {
		case last-i > 1:
			b.WriteString("." + all[last].String())
		case last > i:
			b.WriteString("," + all[last].String())
		}
		i = last + 1
	}
	return b.String()
}

// Pair is two different categories, the lower first: what one sandbox holds. Two different pairs
// never lie within each other, which is why a guest has exactly two. The zero value is not a pair.
type Pair struct {
	Low, High Category
}

// NewPair sorts, and refuses equal categories: a set of one is a subset of every pair that holds it
// (CVE-2021-3631).
func NewPair(a, b Category) (Pair, error) {
	if a >= Categories || b >= Categories {
		return Pair{}, fmt.Errorf("pair %v,%v: want categories c0 to c%d", a, b, Categories-1)
	}
	if a == b {
		return Pair{}, fmt.Errorf("pair %v,%v: want two different categories: a single one is part of other pairs", a, b)
	}
	return Pair{Low: min(a, b), High: max(a, b)}, nil
}

// Set is the pair as a set.
func (p Pair) Set() Set { return NewSet(p.Low, p.High) }

// Pairs is how many pairs there are.
const Pairs = Categories * (Categories - 1) / 2

// Rank numbers the pairs from 0 to Pairs-1 by their low category, then by their high one. Uids of
// QEMU follow from it.
func (p Pair) Rank() int {
	low, high := int(p.Low), int(p.High)
	return low*(2*Categories-low-1)/2 + high - low - 1
}

// String writes "c1,c5".
func (p Pair) String() string { return p.Low.String() + "," + p.High.String() }

// number reads a letter and a plain decimal of at most four digits.
func number(text string, letter byte) (int, error) {
	if len(text) < 2 || text[0] != letter {
		return 0, fmt.Errorf("want %c and a number", letter)
	}
	digits := text[1:]
	if len(digits) > 4 || (len(digits) > 1 && digits[0] == '0') {
		return 0, fmt.Errorf("want %c and a number of at most four digits without leading zeros", letter)
	}
	for _, d := range []byte(digits) {
		if d < '0' || d > '9' {
			return 0, fmt.Errorf("want %c and a number", letter)
		}
	}
	return strconv.Atoi(digits)
}

// clip bounds what an error repeats of foreign text: an annotation may be long.
func clip(text string) string {
	const most = 64
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
