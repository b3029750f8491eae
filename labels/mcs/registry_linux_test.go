// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/sys"

	"golang.org/x/sys/unix"
)

// world is what a registry is told in a test.
type world struct {
	dir     string
	dead    map[int]bool
	scan    []labels.Process
	pending map[string]bool
	held    []labels.Level
	ranged  Range
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{dir: t.TempDir(), dead: map[int]bool{}, pending: map[string]bool{}}
}

func (w *world) open(t *testing.T, pid int) *Registry {
	t.Helper()
	r, err := Open(w.options(pid))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) options(pid int) Options {
	return Options{
		Dir: w.dir, Range: w.ranged, Self: sys.Process{PID: pid, Start: 1, Boot: "boot-1"},
		Alive:   func(o sys.Process) (bool, error) { return !w.dead[o.PID], nil },
		Scan:    func(context.Context) ([]labels.Process, error) { return w.scan, nil },
		Pending: func(sandbox string) (bool, error) { return w.pending[sandbox], nil },
		Held:    func() ([]labels.Level, error) { return w.held, nil },
	}
}

func TestReserveAndRelease(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(t, 1), w.open(t, 2)
	seen := map[labels.Level]bool{}
	for range 200 {
		for _, r := range []*Registry{a, b} {
			e := reserve(t, r, Request{Sandbox: "ns/x"})
			if pair, ok := e.Level.Pair(); !ok || seen[e.Level] || e.Kind != Dynamic {
				t.Fatalf("Reserve = %+v (pair %v), want a new pair", e, pair)
			}
			seen[e.Level] = true
		}
	}
	for level := range seen {
		for range 2 { // an undo may be repeated
			if err := a.Release(t.Context(), "ns/x", level); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantHeld(t, a, 0)
}

func TestReserveRefuses(t *testing.T) {
	tests := []struct {
		name    string
		before  []Request
		scan    []string
		request Request
		want    error
	}{
		{"single category", nil, nil, asked("s0:c5"), ErrLevel},
		{"no category", nil, nil, asked("s0"), ErrLevel},
		{"no category, shared", nil, nil, Request{Sandbox: "x", Level: parse("s0"), Share: "g"}, nil},
		{"free", nil, nil, asked("s0:c1,c2"), nil},
		{"held", []Request{asked("s0:c1,c2")}, nil, asked("s0:c1,c2"), ErrClash},
		{"held at another sensitivity", []Request{asked("s0:c1,c2")}, nil, asked("s1:c1,c2"), ErrClash},
		{"one category in common", []Request{asked("s0:c1,c2")}, nil, asked("s0:c2,c3"), nil},
		{"within a wider one", []Request{wide("s0:c1.c9")}, nil, asked("s0:c2,c3"), ErrClash},
		{"around a pair", []Request{asked("s0:c2,c3")}, nil, wide("s0:c1.c9"), ErrClash},
		{"every category", nil, nil, asked("s0:c0.c1023"), ErrLevel},
		{"three categories", nil, nil, asked("s0:c1,c2,c9"), ErrLevel},
		{"a sensitivity with three categories", nil, nil, asked("s3:c1,c2,c9"), ErrLevel},
		{"a sensitivity alone", nil, nil, asked("s3"), nil},
		{"carried by a process", nil, []string{"s0:c1,c2"}, asked("s0:c1,c2"), ErrClash},
		{"carried within a set of three", nil, []string{"s0:c1,c2"}, asked("s0:c1.c3"), ErrLevel},
		{"a single category runs", nil, []string{"s0:c1"}, asked("s0:c1,c2"), ErrClash},
		{"the system's level", nil, []string{"s0-s0:c0.c1023"}, asked("s0:c1,c2"), nil},
		{"shared with the running", nil, []string{"s0:c1,c2"}, Request{Sandbox: "x", Level: parse("s0:c1,c2"), Share: "g"}, nil},
		{
			"shared over a foreign one",
			[]Request{asked("s0:c1,c2")},
			nil,
			Request{Sandbox: "x", Level: parse("s0:c1,c2"), Share: "g"},
			ErrClash,
		},
		{
			"joined by name",
			[]Request{{Sandbox: "y", Level: parse("s0:c1,c2"), Share: "g"}},
			nil,
			Request{Sandbox: "x", Level: parse("s0:c1,c2"), Share: "g"},
			nil,
		},
		{
			"a share at another level",
			[]Request{{Sandbox: "y", Level: parse("s0:c1,c2"), Share: "g"}},
			nil,
			Request{Sandbox: "x", Level: parse("s0:c3,c4"), Share: "g"},
			ErrLevel,
		},
		{"shared pair, not by name", []Request{{Sandbox: "y", Level: parse("s0:c1,c2"), Share: "g"}}, nil, asked("s0:c1,c2"), ErrClash},
		{"share with a slash", nil, nil, Request{Sandbox: "x", Share: "../x"}, errAny},
		{"no sandbox", nil, nil, Request{}, errAny},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			r := w.open(t, 1)
			for _, q := range test.before {
				reserve(t, r, q)
			}
			for _, text := range test.scan {
				w.scan = append(w.scan, process(t, 77, text))
			}
			_, err := r.Reserve(t.Context(), test.request)
			if (err == nil) != (test.want == nil) || (test.want != nil && !errors.Is(test.want, errAny) && !errors.Is(err, test.want)) {
				t.Errorf("Reserve = %v, want %v", err, test.want)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestShare(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(t, 1), w.open(t, 2)
	first := reserve(t, a, Request{Sandbox: "one", Share: "desk"})
	second := reserve(t, b, Request{Sandbox: "two", Share: "desk"})
	if first.Level != second.Level || len(second.Holders) != 2 || second.Kind != Shared {
		t.Fatalf("second member is %+v, first %+v", second, first)
	}
	w.dead[1] = true
	if freed, err := b.Reclaim(t.Context()); err != nil || len(freed) != 1 {
		t.Fatalf("Reclaim = %v, %v, want the dead member", freed, err)
	}
	wantHeld(t, b, 1)
	if err := b.Release(t.Context(), "two", second.Level); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, b, 0)
	if files, err := os.ReadDir(filepath.Join(b.boot, sharesFolder)); err != nil || len(files) != 0 {
		t.Errorf("shares left: %v, %v", files, err)
	}
}

func TestDrawAvoids(t *testing.T) {
	w := newWorld(t)
	w.ranged = Range{Max: 7} // 28 pairs
	w.scan = []labels.Process{process(t, 50, "s0:c0,c1"), process(t, 51, "s0:c2"), process(t, 52, "s0-s0:c0.c1023")}
	w.held = []labels.Level{*parse("s0:c3,c4")}
	r := w.open(t, 1)
	reserve(t, r, wide("s0:c5.c7"))
	var err error
	var e Entry
	n := 0
	for ; err == nil; n++ {
		if e, err = r.Reserve(t.Context(), Request{Sandbox: "x"}); err != nil {
			break
		}
		for _, text := range []string{"s0:c0,c1", "s0:c2", "s0:c3,c4", "s0:c5.c7"} {
			if e.Level.Clashes(*parse(text)) {
				t.Errorf("drew %v, which clashes with %s", e.Level, text)
			}
		}
	}
	// Out of 28: c0,c1 and c3,c4; seven with c2; three within c5.c7.
	if want := 28 - 2 - 7 - 3; n != want || !errors.Is(err, ErrExhausted) {
		t.Errorf("%d pairs were drawn until %v, want %d until %v", n, err, want, ErrExhausted)
	}
	if !strings.Contains(err.Error(), "has 28 pairs; 16 are in the registry") {
		t.Errorf("%v: want the counts", err)
	}
	w.dead[1] = true
	if _, err := w.open(t, 2).Reserve(t.Context(), Request{Sandbox: "y"}); err != nil {
		t.Errorf("Reserve after the owner died = %v, want a reclaimed pair", err)
	}
}

func TestReclaim(t *testing.T) {
	w := newWorld(t)
	r, mine := w.open(t, 1), w.open(t, 2)
	free := reserve(t, r, Request{Sandbox: "free"})
	running := reserve(t, r, Request{Sandbox: "running"})
	undone := reserve(t, r, Request{Sandbox: "undone"})
	kept := reserve(t, mine, Request{Sandbox: "alive"})
	w.dead[1] = true
	w.scan = []labels.Process{process(t, 9, running.Level.String())}
	w.pending["undone"] = true
	freed, err := mine.Reclaim(t.Context())
	if err != nil || len(freed) != 1 || freed[0].Level != free.Level {
		t.Fatalf("Reclaim = %+v, %v, want %v alone", freed, err, free.Level)
	}
	for _, e := range []Entry{running, undone, kept} {
		if held, err := mine.exists(name(e.Level)); err != nil || !held {
			t.Errorf("%v of %s is not held any more (%v)", e.Level, e.Holders[0].Sandbox, err)
		}
	}
}

func TestCorruptEntryIsKept(t *testing.T) {
	w := newWorld(t)
	r := w.open(t, 1)
	e := reserve(t, r, asked("s0:c1,c2"))
	path := filepath.Join(r.boot, name(e.Level))
	for _, text := range []string{"", "{", `{"level":"s0:c3,c4","kind":"static","holders":[{}]}`, `{"level":"s0:c1,c2","kind":"static"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Reserve(t.Context(), asked("s0:c1,c2")); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("Reserve over %q = %v, want %v naming the file", text, err, ErrCorrupt)
		}
		if _, err := r.Reclaim(t.Context()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Reclaim over %q = %v, want %v", text, err, ErrCorrupt)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a corrupt entry was given out: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(r.boot, pairsFolder)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), Request{Sandbox: "x"}); err == nil {
		t.Error("Reserve without a folder = nil, want an error")
	}
}

func TestEarlierBootsAreRemoved(t *testing.T) {
	w := newWorld(t)
	reserve(t, w.open(t, 1), Request{Sandbox: "x"})
	o := w.options(1)
	o.Self.Boot = "boot-2"
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	wantHeld(t, r, 0)
	if _, err := os.Stat(filepath.Join(w.dir, "boot-1")); !os.IsNotExist(err) {
		t.Errorf("the earlier boot's folder: %v, want it gone", err)
	}
}

func TestLockIsBounded(t *testing.T) {
	w := newWorld(t)
	r := w.open(t, 1)
	f, err := os.OpenFile(filepath.Join(w.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Reserve(ctx, Request{Sandbox: "x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Reserve under a held lock = %v, want %v", err, context.DeadlineExceeded)
	}
	_ = f.Close()
	reserve(t, r, Request{Sandbox: "x"})
}

func TestLookAgain(t *testing.T) {
	w := newWorld(t)
	r := w.open(t, 1)
	e := reserve(t, r, Request{Sandbox: "x"})
	w.scan = []labels.Process{
		process(t, 10, e.Level.String()), process(t, 11, e.Level.String()),
		process(t, 12, "s0-s0:c0.c1023"), process(t, 13, "s0"),
	}
	found, err := r.LookAgain(t.Context(), e.Level, func(pid int) bool { return pid == 10 })
	if err != nil || len(found) != 1 || found[0].PID != 11 {
		t.Errorf("LookAgain = %v, %v, want pid 11", found, err)
	}
}

// TestRedraw lets another engine draw the same pair between the draw and the look that follows.
func TestRedraw(t *testing.T) {
	w := newWorld(t)
	w.ranged = Range{Max: 7}
	r := w.open(t, 1)
	old := reserve(t, r, Request{Sandbox: "x"})
	w.scan = []labels.Process{process(t, 10, old.Level.String()), process(t, 99, old.Level.String())}
	found, err := r.LookAgain(t.Context(), old.Level, func(pid int) bool { return pid == 10 })
	if err != nil || len(found) != 1 {
		t.Fatalf("LookAgain = %v, %v, want pid 99", found, err)
	}
	e, err := r.Redraw(t.Context(), "x", old)
	if err != nil || e.Level.Clashes(old.Level) {
		t.Errorf("Redraw = %v, %v, want another pair than %v", e.Level, err, old.Level)
	}
	wantHeld(t, r, 1)
	for range 26 { // the rest of 28: the pair that the other engine has is not drawn again
		if e := reserve(t, r, Request{Sandbox: "y"}); e.Level == old.Level {
			t.Errorf("drew %v again", e.Level)
		}
	}
	static := w.open(t, 2)
	w.scan = nil
	if _, err := static.Redraw(t.Context(), "z", Entry{Kind: Static, Level: old.Level}); !errors.Is(err, ErrLevel) {
		t.Errorf("Redraw of a static level = %v, want %v", err, ErrLevel)
	}
}

func TestRange(t *testing.T) {
	tests := []struct{ in, want string }{
		{"s0", "s0:c0.c1023"},
		{"s0-s0:c0.c1023", "s0:c0.c1023"},
		{"s1-s3:c100.c199", "s1:c100.c199"},
		{"s0:c5", ""},
		{"s0:c1,c9", ""},
		{"s0:c0.c6", ""},
		{"s0:c0.c7", "s0:c0.c7"},
		{"s0:c1-s0:c0.c1023", ""},
		{"s1:c1.c20-s3:c0.c1023", "s1:c1.c20"},
		// Daemons' ranges as in libvirt's own tests, and one with sixteen sensitivities.
		{"s0-s0", "s0:c0.c1023"},
		{"s0-s0:c0.c10", "s0:c0.c10"},
		{"s2-s3:c0.c1023", "s2:c0.c1023"},
		{"s0-s15:c0.c1023", "s0:c0.c1023"},
	}
	for _, test := range tests {
		r, err := labels.ParseRange(test.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := RangeOf(labels.Label{User: "u", Role: "r", Type: "t", Range: r})
		if (err != nil) != (test.want == "") || (err == nil && got.String() != test.want) {
			t.Errorf("RangeOf(%s) = %v, %v, want %q", test.in, got, err, test.want)
		}
	}
	if got := Whole().Pairs(); got != 523776 {
		t.Errorf("Pairs = %d, want 523776", got)
	}
	if r, err := ParseRange("s0:c8.c15"); err != nil || r.Pairs() != 28 {
		t.Errorf("ParseRange = %v, %v", r, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"level":"s0:c1,c2","kind":"static","holders":[{"sandbox":"x"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := decode("path", "pairs/c1,c2", text)
		if err == nil && name(e.Level) != "pairs/c1,c2" {
			t.Errorf("decode(%q) = %v", text, e.Level)
		}
	})
}

// BenchmarkDraw reserves a pair while 5,000 are held; the median is its own figure.
func BenchmarkDraw(b *testing.B) {
	r, err := Open(Options{
		Dir: b.TempDir(), Self: sys.Process{PID: 1, Boot: "boot"},
		Alive: func(sys.Process) (bool, error) { return true, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	for range 5000 {
		if _, err := r.Reserve(b.Context(), Request{Sandbox: "held"}); err != nil {
			b.Fatal(err)
		}
	}
	var times []time.Duration
	for b.Loop() {
		start := time.Now()
		e, err := r.Reserve(b.Context(), Request{Sandbox: "new"})
		times = append(times, time.Since(start))
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Release(b.Context(), "new", e.Level); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "median-us")
}

func reserve(t *testing.T, r *Registry, q Request) Entry {
	t.Helper()
	e, err := r.Reserve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// wide asks for a level that is no pair, which only those may have who share it by name.
func wide(text string) Request { return Request{Sandbox: "wide", Share: "wide", Level: parse(text)} }

func asked(text string) Request { return Request{Sandbox: "x", Level: parse(text)} }

func parse(text string) *labels.Level {
	l, err := labels.ParseLevel(text)
	if err != nil {
		panic(err)
	}
	return &l
}

func process(t *testing.T, pid int, text string) labels.Process {
	t.Helper()
	r, err := labels.ParseRange(text)
	if err != nil {
		t.Fatal(err)
	}
	return labels.Process{PID: pid, Label: labels.Label{User: "u", Role: "r", Type: "t", Range: r}}
}

func wantHeld(t *testing.T, r *Registry, want int) {
	t.Helper()
	if entries, err := r.Entries(); err != nil || len(entries) != want {
		t.Errorf("Entries = %d, %v, want %d", len(entries), err, want)
	}
}
