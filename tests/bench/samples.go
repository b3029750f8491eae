// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Samples are measurements of one thing, in milliseconds or as a ratio.
type Samples []float64

// Spread is how samples lie: the median, the quartiles around it, and how many there are.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`  // first quartile
	High   float64 `json:"high"` // third quartile
	Count  int     `json:"count"`
}

// With gives the samples and one more.
func (s Samples) With(d time.Duration) Samples { return append(s, float64(d.Microseconds())/1000) }

// Spread sums the samples up.
func (s Samples) Spread() Spread {
	return Spread{Median: s.quantile(0.5), Low: s.quantile(0.25), High: s.quantile(0.75), Count: len(s)}
}

// Median is the middle, or the mean of the two in the middle.
func (s Samples) Median() float64 { return s.quantile(0.5) }

func (s Samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return round(sorted[low] + (sorted[high]-sorted[low])*(at-float64(low)))
}

func round(v float64) float64 { return math.Round(v*100) / 100 }

// Ratio is 0 when there is nothing to compare with.
func Ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return round(a / b)
}

// String is for the table.
func (s Spread) String() string { return fmt.Sprintf("%9.1f  (%.1f - %.1f)", s.Median, s.Low, s.High) }
