// SPDX-License-Identifier: Apache-2.0

package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func key() Key {
	return Key{Image: "inputs", QEMU: "sum", Machine: "microvm", Accel: "tcg", CPUs: 1, MemoryMiB: 8, Cmdline: []string{"quiet"}}
}

// store is a new one.
func store(t *testing.T) Store {
	t.Helper()
	return NewStore(filepath.Join(t.TempDir(), "templates"))
}

// memory is a guest's memory with some data at those pages.
func memory(t *testing.T, pages ...int64) *os.File {
	t.Helper()
	f, err := NewMemory(key().MemoryMiB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	for _, p := range pages {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(p%251 + 1)}, pageBytes), p*pageBytes); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func build(t *testing.T, s Store, k Key, mem *os.File) Manifest {
	t.Helper()
	d, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := d.State.WriteString("state of the devices"); err != nil {
		t.Fatal(err)
	}
	m, err := d.Commit(Manifest{Key: k, QEMUVersion: "7.2.22", MACs: []string{"02:00:00:00:00:00"}}, mem)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func whole(t *testing.T, f *os.File) []byte {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestStoreKeepsAGuest(t *testing.T) {
	s := store(t)
	if _, err := s.Open(key()); !errors.Is(err, ErrNone) || !s.Empty() {
		t.Errorf("Open of an empty store = %v, want %v", err, ErrNone)
	}
	saved := memory(t, 0, 1, 2, 9, 300, 2047)
	m := build(t, s, key(), saved)
	want := []Extent{{0, 3 * pageBytes}, {9 * pageBytes, pageBytes}, {300 * pageBytes, pageBytes}, {2047 * pageBytes, pageBytes}}
	if diff := cmp.Diff(want, m.Extents); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
	got, err := s.Open(key())
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	into := memory(t)
	if err := Fill(into, got.Memory(), got.Manifest.Extents); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole(t, into), whole(t, saved)) {
		t.Error("the memory is not what it was")
	}
	if state, _ := io.ReadAll(got.State); string(state) != "state of the devices" {
		t.Errorf("state = %q", state)
	}
	other := key()
	other.Cmdline = []string{"quiet", "mitigations=off"}
	if _, err := s.Open(other); !errors.Is(err, ErrNone) {
		t.Errorf("Open with another key = %v, want %v", err, ErrNone)
	}
	if left, _ := filepath.Glob(s.path(draftPrefix + "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestFirstDigestIsKept: the digest of QEMU is asked for before the first template is there.
func TestFirstDigestIsKept(t *testing.T) {
	s := store(t)
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := s.Digest(f)
	if err != nil {
		t.Fatal(err)
	}
	if all := s.readDigests(); len(all) != 1 || all[0].SHA256 != sum {
		t.Errorf("digests kept = %+v, want %s", all, sum)
	}
}

// TestGatherSkipsZeroes: pages that were written and hold nothing are not kept, but where few are
// between others.
func TestGatherSkipsZeroes(t *testing.T) {
	f := memory(t, 3, 5, 20)
	if _, err := f.WriteAt(make([]byte, pageBytes), 4*pageBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 100*pageBytes), 100*pageBytes); err != nil {
		t.Fatal(err)
	}
	var kept bytes.Buffer
	got, err := gather(f, &kept)
	want := []Extent{{3 * pageBytes, 3 * pageBytes}, {20 * pageBytes, pageBytes}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" || kept.Len() != 4*pageBytes {
		t.Errorf("gather = %d bytes, %v, extents (-want +got):\n%s", kept.Len(), err, diff)
	}
}

// TestDamagedTemplateIsRefused changes each file of a template.
func TestDamagedTemplateIsRefused(t *testing.T) {
	change := func(name string, how func(*os.File) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, name)
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(how(f), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(f *os.File) error {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 5); err != nil {
			return err
		}
		b[0]++
		_, err := f.WriteAt(b, 5)
		return err
	}
	cut := func(f *os.File) error { return f.Truncate(10) }
	grow := func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 1<<16); return err }
	for name, damage := range map[string]func(*testing.T, string){
		"memory changed": change(MemoryName, flip), "memory cut": change(MemoryName, cut), "memory grown": change(MemoryName, grow),
		"state changed": change(StateName, flip), "state cut": change(StateName, cut),
		"manifest changed": change(ManifestName, flip), "manifest cut": change(ManifestName, cut),
		"of another key": func(t *testing.T, dir string) {
			t.Helper()
			change(ManifestName, func(f *os.File) error { return f.Truncate(0) })(t, dir)
			m := Manifest{Format: format, Key: Key{MemoryMiB: 8}}
			m.ID = m.Key.ID()
			m.State, m.Memory = Blob{1, strings.Repeat("0", 64)}, Blob{pageBytes, strings.Repeat("0", 64)}
			m.Extents = []Extent{{0, pageBytes}}
			data, err := json.Marshal(m)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, ManifestName), data, 0o400)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			m := build(t, s, key(), memory(t, 1, 2))
			if got, err := s.Open(key()); err != nil { // its digests are known from here on
				t.Fatal(err)
			} else if err := got.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, s.path(m.ID))
			if _, err := s.Open(key()); !errors.Is(err, ErrDamaged) {
				t.Errorf("Open = %v, want %v", err, ErrDamaged)
			}
			if err := s.Verify(m.ID); !errors.Is(err, ErrDamaged) {
				t.Errorf("Verify = %v, want %v", err, ErrDamaged)
			}
			if removed, err := s.GC(); strings.HasPrefix(name, "manifest") && (err != nil || len(removed) != 1) {
				t.Errorf("GC = %v, %v, want the template removed", removed, err)
			}
		})
	}
}

func TestTemplateOfOthersIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's files are looked at")
	}
	s := store(t)
	m := build(t, s, key(), memory(t, 1))
	if err := os.Chmod(s.path(m.ID), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(key()); err == nil {
		t.Error("Open accepted a template that everybody may write to")
	}
}

func TestFailingTwiceSetsAside(t *testing.T) {
	s := store(t)
	m := build(t, s, key(), memory(t, 1))
	for i := range maxFailures {
		got, err := s.Open(key())
		if err != nil {
			t.Fatalf("Open after %d failures = %v", i, err)
		}
		if err := errors.Join(got.Close(), s.Fail(m.ID, "no end of load")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(key()); !errors.Is(err, ErrSetAside) {
		t.Errorf("Open after %d failures = %v, want %v", maxFailures, err, ErrSetAside)
	}
	build(t, s, key(), memory(t, 1))
	got, err := s.Open(key())
	if err != nil {
		t.Fatalf("Open of a rebuilt template = %v", err)
	}
	_ = got.Close()
}

func TestDisable(t *testing.T) {
	s := store(t)
	build(t, s, key(), memory(t, 1))
	if err := s.Disable(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(key()); !errors.Is(err, ErrDisabled) {
		t.Errorf("Open = %v, want %v", err, ErrDisabled)
	}
	if err := s.Enable(); err != nil {
		t.Fatal(err)
	}
	got, err := s.Open(key())
	if err != nil {
		t.Fatalf("Open after Enable = %v", err)
	}
	_ = got.Close()
}

func TestHostCPU(t *testing.T) {
	cpu := "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: A CPU\nflags\t\t: fpu vme\ncpu MHz\t\t: " +
		"2100.1\n\nprocessor\t: 1\nflags\t\t: fpu\n"
	a := hostCPU(cpu)
	if !strings.HasPrefix(a, "A CPU ") {
		t.Errorf("hostCPU = %q", a)
	}
	if b := hostCPU(strings.Replace(cpu, "2100.1", "800.0", 1)); a != b {
		t.Errorf("the frequency of the moment changes the CPU from %q to %q", a, b)
	}
	if b := hostCPU(strings.Replace(cpu, "fpu vme", "fpu", 1)); a == b {
		t.Errorf("a feature less leaves the CPU %q", a)
	}
}

// TestEachFieldOfAKeyCounts: templates of keys that differ in one field have different names.
func TestEachFieldOfAKeyCounts(t *testing.T) {
	names := map[string]string{Key{}.ID(): "none"} // by the field that is set
	for field := range reflect.TypeFor[Key]().Fields() {
		var key Key
		switch value := reflect.ValueOf(&key).Elem().FieldByIndex(field.Index); value.Kind() {
		case reflect.String:
			value.SetString("x")
		case reflect.Int:
			value.SetInt(1)
		default:
			value.Set(reflect.ValueOf([]string{"x"}))
		}
		if other := names[key.ID()]; other != "" {
			t.Errorf("a key with %s has the name of one with %s", field.Name, other)
		}
		names[key.ID()] = field.Name
	}
}

func FuzzParseManifest(f *testing.F) {
	m := Manifest{
		Format: format, Key: Key{MemoryMiB: 8}, State: Blob{1, strings.Repeat("0", 64)},
		Memory: Blob{pageBytes, strings.Repeat("0", 64)}, Extents: []Extent{{0, pageBytes}},
	}
	m.ID = m.Key.ID()
	good, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"offset":0`), []byte(`"offset":9223372036854771712`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		var end int64
		for _, e := range m.Extents {
			if e.Offset < end || e.Bytes <= 0 || e.Offset+e.Bytes > int64(m.Key.MemoryMiB)<<20 {
				t.Errorf("extent %+v of %d MiB", e, m.Key.MemoryMiB)
			}
			end = e.Offset + e.Bytes
		}
	})
}

// TestLacks says which templates a builder in the background builds.
func TestLacks(t *testing.T) {
	s := NewStore(t.TempDir())
	key := Key{Image: "one", MemoryMiB: 1}
	if err := s.Lacks(key); err != nil {
		t.Errorf("an empty store: %v, want nil", err)
	}
	for range maxFailures {
		if err := s.Fail(key.ID(), "a build"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Lacks(key); !errors.Is(err, ErrSetAside) {
		t.Errorf("after %d failures: %v, want ErrSetAside", maxFailures, err)
	}
	other := Key{Image: "two", MemoryMiB: 1}
	if err := os.Mkdir(s.path(other.ID()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Lacks(other); !errors.Is(err, ErrThere) {
		t.Errorf("with a template: %v, want ErrThere", err)
	}
	if err := s.Disable(); err != nil {
		t.Fatal(err)
	}
	if err := s.Lacks(Key{}); !errors.Is(err, ErrDisabled) {
		t.Errorf("disabled: %v, want ErrDisabled", err)
	}
}

// TestFull: a store whose templates were all used of late takes no more from the background, by
// their number and by their bytes. GC would remove what was just built.
func TestFull(t *testing.T) {
	now := time.Now()
	list := make([]Entry, maxTemplates)
	for i := range list {
		list[i].Used = now.Add(-time.Duration(i) * time.Minute)
	}
	if err := full(list, about(608), now); !errors.Is(err, ErrFull) {
		t.Errorf("all in use: %v, want ErrFull", err)
	}
	if err := full(list, about(608), now.Add(time.Hour)); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	if err := full(list[1:], about(608), now); err != nil {
		t.Errorf("one less: %v", err)
	}
	large := []Entry{{Used: now, Bytes: about(70 << 10)}}
	if err := full(large, about(70<<10), now); !errors.Is(err, ErrFull) {
		t.Errorf("two of 70 GiB: %v, want ErrFull", err)
	}
	if err := full(large, about(70<<10), now.Add(time.Hour)); err != nil {
		t.Errorf("the other one an hour later: %v", err)
	}
	if err := full(nil, about(128<<10), now); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one of 128 GiB: %v, want it refused", err)
	}
}

// TestOneBuilder: one builder in the background has the store, until it ends.
func TestOneBuilder(t *testing.T) {
	s := NewStore(filepath.Join(t.TempDir(), "templates"))
	lock, err := s.Builder()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := s.Builder(); !errors.Is(err, ErrBusy) {
		t.Errorf("the second builder: %v, %v, want ErrBusy", second, err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = s.Builder(); err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}
