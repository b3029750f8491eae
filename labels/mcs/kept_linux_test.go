// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"errors"
	"os"
	"strings"
	"testing"

	"cloister/labels"
)

// TestKeptPairsBelongToATenant shows that the pair of a stopped sandbox's files is given to its own
// tenant alone, over a reboot too, until no file carries it.
func TestKeptPairsBelongToATenant(t *testing.T) {
	w := newWorld(t)
	r := w.open(t, 1)
	level := *parse("s0:c5,c6")
	ask := func(r *Registry, tenant string) error {
		e, err := r.Reserve(t.Context(), Request{Sandbox: "k8s.io/x", Tenant: tenant, Level: &level})
		if err == nil {
			err = r.Release(t.Context(), "k8s.io/x", e.Level)
		}
		return err
	}
	reserve(t, r, Request{Sandbox: "k8s.io/a", Tenant: "k8s.io/red", Level: &level})
	if err := r.Keep(t.Context(), "k8s.io/red", level, "/srv/red"); err != nil {
		t.Fatal(err)
	}
	if err := r.Release(t.Context(), "k8s.io/a", level); err != nil {
		t.Fatal(err)
	}
	check := func(name string, r *Registry) {
		t.Helper()
		err := ask(r, "k8s.io/blue")
		if !errors.Is(err, ErrClash) || !strings.Contains(err.Error(), "/srv/red") || !strings.Contains(err.Error(), "k8s.io/red") {
			t.Errorf("%s: another tenant's request = %v, want %v naming the files and their tenant", name, err, ErrClash)
		}
		if err := ask(r, "k8s.io/red"); err != nil {
			t.Errorf("%s: the owner's request = %v", name, err)
		}
		if err := r.Keep(t.Context(), "k8s.io/blue", level, "/srv/blue"); !errors.Is(err, ErrClash) {
			t.Errorf("%s: another tenant's Keep = %v, want %v", name, err, ErrClash)
		}
	}
	check("same boot", r)
	o := w.options(2)
	o.Self.Boot = "boot-2"
	carries := true
	o.Carries = func(path string, pair labels.Pair) (bool, error) {
		return carries && path == "/srv/red" && pair.String() == "c5,c6", nil
	}
	next, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	check("after a reboot", next)
	carries = false
	if err := ask(next, "k8s.io/blue"); err != nil {
		t.Errorf("request for a pair that no file carries any more = %v", err)
	}
}

// TestKeptPairsAreNotDrawn shows that a draw gives no pair that files carry, however few are left.
func TestKeptPairsAreNotDrawn(t *testing.T) {
	w := newWorld(t)
	w.ranged = Range{Max: 7}
	r := w.open(t, 1)
	for a := range labels.Category(7) {
		for b := a + 1; b < 8; b++ {
			pair := labels.Pair{Low: a, High: b}
			if pair.String() == "c3,c4" {
				continue
			}
			if err := r.Keep(t.Context(), "x/y", labels.NewLevel(0, pair), "/srv/"+pair.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if e := reserve(t, r, Request{Sandbox: "ns/x", Tenant: "x/y"}); e.Level.String() != "s0:c3,c4" {
		t.Errorf("drawn %v, want the one pair that no file carries", e.Level)
	}
	if _, err := r.Reserve(t.Context(), Request{Sandbox: "ns/y"}); !errors.Is(err, ErrExhausted) ||
		!strings.Contains(err.Error(), "27 are of kept files") {
		t.Errorf("Reserve with no free pair = %v, want %v with the number of kept ones", err, ErrExhausted)
	}
}

// TestLevelsOfFilesAreNotShared: files that still carry a level from an earlier boot, as on a
// volume that is not mounted, keep everybody from it. A name for sharing says that processes may
// meet, and nothing about files of others.
func TestLevelsOfFilesAreNotShared(t *testing.T) {
	for _, tt := range []struct{ held, asked, share string }{
		{"s0:c1,c2", "s0:c1,c2", ""},
		{"s0:c1,c2", "s0:c1,c2", "desk"},
		{"s0:c1,c2", "s0:c1.c9", "desk"},
		{"s0:c1.c9", "s0:c1,c2", "desk"},
	} {
		w := newWorld(t)
		w.held = []labels.Level{*parse(tt.held)}
		r := w.open(t, 1)
		_, err := r.Reserve(t.Context(), Request{Sandbox: "ns/x", Level: parse(tt.asked), Share: tt.share})
		if !errors.Is(err, ErrClash) || !strings.Contains(err.Error(), "cloister gc") {
			t.Errorf("Reserve %s, share %q, with files at %s = %v, want %v and the remedy", tt.asked, tt.share, tt.held, err, ErrClash)
		}
		w.held = nil // given back
		if _, err := r.Reserve(t.Context(), Request{Sandbox: "ns/x", Level: parse(tt.asked), Share: "desk"}); err != nil {
			t.Errorf("Reserve %s once no file is at %s = %v", tt.asked, tt.held, err)
		}
	}
}

func TestKeepRefuses(t *testing.T) {
	r := newWorld(t).open(t, 1)
	pair := *parse("s0:c1,c2")
	for _, test := range []struct{ tenant, path string }{{"", "/srv/a"}, {"a", "srv"}} {
		if err := r.Keep(t.Context(), test.tenant, pair, test.path); err == nil {
			t.Errorf("Keep(%q, %q) = nil, want an error", test.tenant, test.path)
		}
	}
	if err := r.Keep(t.Context(), "a", *parse("s0"), "/srv/a"); err != nil {
		t.Errorf("Keep of a level without categories = %v", err)
	}
	if err := os.WriteFile(r.keptPath(labels.Pair{Low: 1, High: 2}), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), asked("s0:c1,c2")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Reserve over a damaged note = %v, want %v", err, ErrCorrupt)
	}
}
