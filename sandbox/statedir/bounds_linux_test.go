// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// TestRecordStaysFlat changes a record as 2,000 container starts of one pod do: an effect
// comes and goes, then phases are noted. Neither file nor memory may grow with their number.
func TestRecordStaysFlat(t *testing.T) {
	state, err := os.MkdirTemp("/dev/shm", "cloister") //nolint:usetesting // a tmpfs, as /run is: 8,000 writes wait for no disk
	if err != nil {
		state = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	d, err := New(state, "default", "s1")
	if err != nil {
		t.Fatal(err)
	}
	j := create(t, d)
	phase := func(i int, name string) Phase { return Phase{name, int64(1000 + i), int64(i % 90)} }
	var start []Phase
	for i, name := range []string{
		"plan", "promise", "label", "content", "prepare", "files", "qemu", "verify",
		"kernel", "agent", "rootfs", "create",
	} {
		start = append(start, phase(i, name))
	}
	facts := map[string]string{"kernel": "6.12.1", "image": "/usr/share/cloister/guest/small"}
	if err := j.Note(facts, start); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(d.Record())
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var fullSize int64
	var fullHeap uint64
	const starts = 2000
	for i := range starts {
		seq, err := j.Promise(Effect{Kind: KindMount, Path: fmt.Sprintf("/run/m%04d", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.Done(seq, nil), j.Note(facts, []Phase{phase(i, "rootfs"), phase(i, "create"), phase(i, "remove")}),
			j.Forget(seq)); err != nil {
			t.Fatal(err)
		}
		if i == maxPhases { // the ring is full
			fullSize, fullHeap = size(), heap()
		}
	}
	if last := size(); last > fullSize+fullSize/8 {
		t.Errorf("the record has %d bytes after %d starts, %d after %d", last, starts, fullSize, maxPhases)
	}
	if last := heap(); last > fullHeap+256<<10 {
		t.Errorf("%d bytes of heap after %d starts, %d after %d", last, starts, fullHeap, maxPhases)
	}
	t.Logf("record of %d bytes after %d starts, %d after %d", size(), starts, fullSize, maxPhases)
	r, err := Load(d)
	if err != nil || len(r.Effects) != 0 || len(r.Recent) != maxPhases {
		t.Fatalf("Load: %d effects, %d recent phases, %v", len(r.Effects), len(r.Recent), err)
	}
	if diff := cmp.Diff(start, r.Phases); diff != "" {
		t.Errorf("the start's phases (-want +got):\n%s", diff)
	}
	if last := r.Recent[maxPhases-1]; last != phase(starts-1, "remove") {
		t.Errorf("the last phase is %v", last)
	}
}

func TestNoteWritesOnlyNews(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	if err := j.Note(map[string]string{"a": strings.Repeat("x", 2*maxFact)}, nil); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(d.Record())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Note(map[string]string{"a": strings.Repeat("x", 2*maxFact)}, nil); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(d.Record()); err != nil || !os.SameFile(before, after) {
		t.Errorf("a note of nothing new wrote the record: %v", err)
	}
	for i := range 2 * maxFacts {
		if err := j.Note(map[string]string{fmt.Sprint("fact", i): "x"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	r := j.Record()
	if len(r.Facts) != maxFacts || len(r.Facts["a"]) != maxFact {
		t.Errorf("%d facts, the first of %d bytes, want %d and %d", len(r.Facts), len(r.Facts["a"]), maxFacts, maxFact)
	}
}

// TestEffectsAreBounded: an effect that would make the record unreadable is refused before it
// happens.
func TestEffectsAreBounded(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	var err error
	for range 40 {
		if _, err = j.Promise(Effect{Kind: KindMount, Path: strings.Repeat("p", 1<<15)}); err != nil {
			break
		}
	}
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("Promise = %v, want ErrResourceExhausted", err)
	}
	if r, err := Load(d); err != nil || len(r.Effects) != len(j.Record().Effects) {
		t.Errorf("the record on disk: %d effects, %v", len(r.Effects), err)
	}
}

// damages are records that say nothing.
func damages() map[string][]byte {
	return map[string][]byte{
		"too large": append([]byte(`{"version":1,"bundle":"`), bytes.Repeat([]byte("x"), maxRecord)...),
		"cut short": []byte(`{"version":1,"effects":[{"kind":"process`),
		"empty":     {},
		"garbage":   {0, 0, 0, 0},
		"version":   []byte(`{"version":99}`),
	}
}

func TestRebuild(t *testing.T) {
	for name, text := range damages() {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			owner := create(t, d)
			if err := os.WriteFile(d.Record(), text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(d); !IsUnreadable(err) {
				t.Errorf("Load = %v, want unreadable", err)
			}
			find := func() ([]Effect, error) { return []Effect{{Kind: KindMount, Path: "/1"}, {Kind: KindTap}}, nil }
			if _, err := Rebuild(d, find); !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("Rebuild beside a living owner: %v, want ErrUnavailable", err)
			}
			if held, err := Held(d); err != nil || !held {
				t.Errorf("Held beside a living owner: %v, %v", held, err)
			}
			if err := owner.Close(); err != nil {
				t.Fatal(err)
			}
			if held, err := Held(d); err != nil || held {
				t.Errorf("Held without an owner: %v, %v", held, err)
			}
			j, err := Rebuild(d, find)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			want := []Effect{{Seq: 1, Kind: KindMount, Path: "/1", Done: true}, {Seq: 2, Kind: KindTap, Done: true}}
			if r, err := Load(d); err != nil || !cmp.Equal(r.Effects, want) || r.ID != d.ID() || r.Namespace != d.Namespace() {
				t.Errorf("the new record: %+v, %v", r, err)
			}
			if old, err := os.ReadFile(d.damaged()); err != nil || !bytes.Equal(old, text) {
				t.Errorf("the damaged record: %d bytes, %v, want %d", len(old), err, len(text))
			}
		})
	}
}

// TestEnd: the first reason stays, and an end that comes after the record was let go makes nothing
// in its folder.
func TestEnd(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	for _, reason := range []string{"killed by a signal", "hung up"} {
		if err := j.End(reason); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := Load(d); err != nil || r.Ended == nil || r.Ended.Reason != "killed by a signal" || r.Ended.At.IsZero() {
		t.Errorf("the record: %+v, %v", r.Ended, err)
	}
	other, err := New(t.TempDir(), "default", "s2")
	if err != nil {
		t.Fatal(err)
	}
	if j, err = Create(other, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Close(), os.RemoveAll(string(other)), j.End("late")); err != nil {
		t.Errorf("End after the folder has gone: %v", err)
	}
}
