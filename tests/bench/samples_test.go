// SPDX-License-Identifier: Apache-2.0

package bench

import "testing"

func TestSpread(t *testing.T) {
	tests := []struct {
		in   Samples
		want Spread
	}{
		{nil, Spread{}},
		{Samples{7}, Spread{7, 7, 7, 1}},
		{Samples{4, 1, 3, 2}, Spread{2.5, 1.75, 3.25, 4}},
		{Samples{5, 1, 3}, Spread{3, 2, 4, 3}},
	}
	for _, tt := range tests {
		if got := tt.in.Spread(); got != tt.want {
			t.Errorf("Spread(%v) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}
