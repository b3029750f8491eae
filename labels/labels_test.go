// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestParseLevel(t *testing.T) {
	tests := []struct {
		name, in, want string
		wantErr        bool
	}{
		{"low", "s0", "s0", false},
		{"highest sensitivity", "s15", "s15", false},
		{"pair", "s0:c1,c2", "s0:c1,c2", false},
		{"unordered", "s0:c900,c3", "s0:c3,c900", false},
		{"span and single", "s2:c1,c3.c5", "s2:c1,c3.c5", false},
		{"span of two", "s0:c1.c2", "s0:c1,c2", false},
		{"neighbours join", "s0:c1,c2,c3", "s0:c1.c3", false},
		{"twice", "s0:c1,c1", "s0:c1", false},
		{"all", "s0:c0.c1023", "s0:c0.c1023", false},
		{"sensitivity too high", "s16", "", true},
		{"category too high", "s0:c1024", "", true},
		{"falling span", "s0:c5.c3", "", true},
		{"span of one", "s0:c5.c5", "", true},
		{"open span", "s0:c5.", "", true},
		{"no category", "s0:", "", true},
		{"trailing comma", "s0:c1,", "", true},
		{"leading zero", "s0:c01", "", true},
		{"sign", "s0:c+1", "", true},
		{"blank", "s0: c1", "", true},
		{"empty", "", "", true},
		{"huge", "s0:" + strings.Repeat("c1,", 3000) + "c2", "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseLevel(test.in)
			if (err != nil) != test.wantErr {
				t.Fatalf("ParseLevel(%q) = %v, want error %v", test.in, err, test.wantErr)
			}
			if err == nil && got.String() != test.want {
				t.Errorf("ParseLevel(%q) = %v, want %v", test.in, got, test.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, in, want string
		wantErr        error
	}{
		{"process", "system_u:system_r:svirt_t:s0:c1,c2", "", nil},
		{"range", "system_u:system_r:initrc_t:s0-s0:c0.c1023", "", nil},
		{"equal range", "a:b:c:s0:c1-s0:c1", "a:b:c:s0:c1", nil},
		{"translated", "system_u:system_r:svirt_t:SystemLow-SystemHigh", "", ErrTranslated},
		{"translated category", "system_u:system_r:svirt_t:s0:Payroll", "", errAny},
		{"no level", "system_u:system_r:svirt_t", "", errAny},
		{"falling range", "a:b:c:s0:c1-s0", "", errAny},
		{"empty type", "a:b::s0", "", errAny},
		{"quote in type", `a:b:c"d:s0`, "", errAny},
		{"newline", "a:b:c:s0\n", "", errAny},
		{"apparmor", "docker-default (enforce)", "", errAny},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(test.in)
			if test.wantErr != nil {
				if err == nil || (!errors.Is(test.wantErr, errAny) && !errors.Is(err, test.wantErr)) {
					t.Fatalf("Parse(%q) = %v, want %v", test.in, err, test.wantErr)
				}
				return
			}
			want := test.want
			if want == "" {
				want = test.in
			}
			if err != nil || got.String() != want {
				t.Errorf("Parse(%q) = %v, %v, want %v", test.in, got, err, want)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestNewPair(t *testing.T) {
	if p, err := NewPair(9, 2); err != nil || p.String() != "c2,c9" {
		t.Errorf("NewPair(9, 2) = %v, %v, want c2,c9", p, err)
	}
	for _, bad := range [][2]Category{{3, 3}, {0, Categories}} {
		if p, err := NewPair(bad[0], bad[1]); err == nil {
			t.Errorf("NewPair(%v) = %v, want an error", bad, p)
		}
	}
}

func TestClashes(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"s0:c1,c2", "s0:c1,c2", true},
		{"s0:c1,c2", "s1:c1,c2", true},
		{"s0:c1,c2", "s0:c2,c3", false},
		{"s0:c1,c2", "s0:c1", true},
		{"s0:c1.c5", "s0:c2,c4", true},
		{"s0", "s0:c1,c2", false},
		{"s0", "s0", true},
		{"s1", "s2", false},
	}
	for _, test := range tests {
		a, b := level(t, test.a), level(t, test.b)
		if a.Clashes(b) != test.want || b.Clashes(a) != test.want {
			t.Errorf("%v clashes with %v = %v, want %v both ways", a, b, a.Clashes(b), test.want)
		}
	}
}

func TestLabelJSON(t *testing.T) {
	type record struct {
		Label Label `json:"label"`
		Level Level `json:"level"`
	}
	label, err := Parse("u:r:t:s0:c4,c9")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []record{{}, {label, label.Range.High}} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got record
		if err := json.Unmarshal(data, &got); err != nil || got != want {
			t.Errorf("%s = %v, %v, want %v", data, got, err, want)
		}
	}
}

// TestLevelProperties draws levels and holds the algebra against them.
func TestLevelProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() Level {
		l := Level{Sensitivity: Sensitivity(random.IntN(3))}
		for range random.IntN(6) {
			l.Categories = l.Categories.with(Category(random.IntN(12)))
		}
		return l
	}
	for range 20000 {
		a, b, c := draw(), draw(), draw()
		if got := level(t, a.String()); got != a {
			t.Fatalf("ParseLevel(%q) = %v", a, got)
		}
		if !a.Dominates(a) {
			t.Fatalf("%v does not dominate itself", a)
		}
		if a.Dominates(b) && b.Dominates(a) && a != b {
			t.Fatalf("%v and %v dominate each other", a, b)
		}
		if a.Dominates(b) && b.Dominates(c) && !a.Dominates(c) {
			t.Fatalf("dominance of %v, %v, %v is not transitive", a, b, c)
		}
		if a.Categories.Overlaps(b.Categories) != slices.ContainsFunc(a.Categories.All(), b.Categories.Has) {
			t.Fatalf("Overlaps(%v, %v) is wrong", a, b)
		}
		if a.Clashes(b) != b.Clashes(a) {
			t.Fatalf("Clashes(%v, %v) is not symmetric", a, b)
		}
		if a.Dominates(b) && b.Categories.Len() > 0 && !a.Clashes(b) {
			t.Fatalf("%v dominates %v and does not clash with it", a, b)
		}
		if a.Categories.Len() != len(a.Categories.All()) {
			t.Fatalf("Len(%v) = %d", a, a.Categories.Len())
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"system_u:system_r:svirt_t:s0:c1,c2", "a:b:c:s0-s15:c0.c1023",
		"a:b:c:SystemLow", "::::", "a:b:c:s0:c1,c3.c5",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(l.String())
		if err != nil || again != l {
			t.Errorf("Parse(%q) = %v, and again %v, %v", text, l, again, err)
		}
		if strings.ContainsAny(l.String(), "\"'\n\x00 =") {
			t.Errorf("Parse(%q) = %q: unsafe in a mount option", text, l)
		}
		if !l.Range.High.Dominates(l.Range.Low) {
			t.Errorf("Parse(%q): high does not dominate low", text)
		}
	})
}

func level(t *testing.T, text string) Level {
	t.Helper()
	l, err := ParseLevel(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRankNumbersEveryPair(t *testing.T) {
	next := 0
	for low := range Categories {
		for high := low + 1; high < Categories; high++ {
			if got := (Pair{Low: Category(low), High: Category(high)}).Rank(); got != next {
				t.Fatalf("Rank of c%d,c%d = %d, want %d", low, high, got, next)
			}
			next++
		}
	}
	if next != Pairs {
		t.Errorf("%d pairs, want %d", next, Pairs)
	}
}
