// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

func newDir(t *testing.T) Dir {
	t.Helper()
	d, err := New(t.TempDir(), "default", "s1")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func create(t *testing.T, d Dir) *Journal {
	t.Helper()
	j, err := Create(d, "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// undoing gives the kinds one undoer.
func undoing(f Undoer, kinds ...Kind) map[Kind]Undoer {
	out := make(map[Kind]Undoer)
	for _, k := range kinds {
		out[k] = f
	}
	return out
}

func TestJournal(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	if _, err := Create(d, ""); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Create: %v, want ErrAlreadyExists", err)
	}
	seq, err := j.Promise(Effect{Kind: KindMount, Path: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := j.Promise(Effect{Kind: KindProcess, Detail: d.Marker()})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Done(pid, func(e *Effect) { e.Process = sys.Process{PID: 7, Start: 9} }); err != nil {
		t.Fatal(err)
	}
	if err := j.Done(99, nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Done of nothing: %v", err)
	}
	if err := j.Note(map[string]string{"kernel": "6.1"}, []Phase{{"plan", 0, 3}}); err != nil {
		t.Fatal(err)
	}
	got, err := Load(d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j.Record(), got); diff != "" {
		t.Errorf("disk differs from memory:\n%s", diff)
	}
	want := []Effect{
		{Seq: seq, Kind: KindMount, Path: "/x"},
		{Seq: pid, Kind: KindProcess, Detail: d.Marker(), Process: sys.Process{PID: 7, Start: 9}, Done: true},
	}
	if diff := cmp.Diff(want, got.Effects); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
	if _, err := Open(d); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Open while held: %v, want ErrUnavailable", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	k, err := Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	if err := k.Forget(seq); err != nil {
		t.Fatal(err)
	}
	if next, err := k.Promise(Effect{Kind: KindFolder}); err != nil || next != pid+1 {
		t.Errorf("Promise after Open = %d, %v, want %d", next, err, pid+1)
	}
}

func TestOpenWithoutARecord(t *testing.T) {
	d := newDir(t)
	if _, err := Open(d); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Open = %v, want ErrNotFound", err)
	}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	j, err := Open(d)
	if err != nil {
		t.Fatalf("Open of a folder without a record: %v", err)
	}
	defer func() { _ = j.Close() }()
	if err := j.Undo(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestParseRecord(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want error
	}{
		{`{"version":2}`, nil},
		{`{"version":1}`, errdefs.ErrFailedPrecondition},
		{`{"version":2`, errdefs.ErrDataLoss},
		{``, errdefs.ErrDataLoss},
	} {
		if _, err := parseRecord([]byte(tt.in)); !errors.Is(err, tt.want) {
			t.Errorf("parseRecord(%q) = %v, want %v", tt.in, err, tt.want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":2,"effects":[{"seq":1,"kind":"mount","path":"/x"}],"next":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err == nil && r.Version != version {
			t.Error("another version was taken")
		}
	})
}

func TestUndo(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	for _, path := range []string{"/1", "/2", "/3"} {
		if _, err := j.Promise(Effect{Kind: KindMount, Path: path}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.Promise(Effect{Kind: KindTap}); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	var order []string
	undoers := undoing(func(_ context.Context, e Effect) error {
		order = append(order, e.Path)
		if e.Path == "/2" {
			return broken
		}
		return nil
	}, KindMount)
	err := j.Undo(t.Context(), undoers)
	if !errors.Is(err, broken) || !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("Undo = %v, want both errors", err)
	}
	if diff := cmp.Diff([]string{"/3", "/2", "/1"}, order); diff != "" {
		t.Errorf("order:\n%s", diff)
	}
	if left := j.Record().Effects; len(left) != 2 || left[0].Path != "/2" || left[1].Kind != KindTap {
		t.Errorf("left %v, want what failed", left)
	}
}

func TestUndoAfterReboot(t *testing.T) {
	d := newDir(t)
	j := create(t, d)
	for _, k := range []Kind{KindFolder, KindMount, KindProcess, KindReservation} {
		if _, err := j.Promise(Effect{Kind: k}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.change(func(r *Record) error { r.BootID = "another"; return nil }); err != nil {
		t.Fatal(err)
	}
	var called []Kind
	note := func(_ context.Context, e Effect) error { called = append(called, e.Kind); return nil }
	undoers := undoing(note, KindFolder, KindMount, KindProcess, KindReservation)
	if err := j.Undo(t.Context(), undoers); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Kind{KindReservation, KindFolder}, called); diff != "" {
		t.Errorf("undone:\n%s", diff)
	}
	if left := j.Record().Effects; len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// crashSteps are the writes of the child below; it dies before, in the middle of
// and after each.
const crashEffects = 3

// TestCrashChild is not a test: it makes effects and dies at the step it is told.
func TestCrashChild(t *testing.T) {
	folder, at := os.Getenv("STATEDIR_CRASH_DIR"), os.Getenv("STATEDIR_CRASH_AT")
	if folder == "" {
		t.Skip("only as a child")
	}
	left, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	die := func() {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	d := Dir(folder)
	die()
	j, err := Create(d, "")
	if err != nil {
		t.Fatal(err)
	}
	die()
	for i := range crashEffects {
		path := filepath.Join(filepath.Dir(folder), fmt.Sprintf("effect%d", i))
		seq, err := j.Promise(Effect{Kind: KindFolder, Path: path})
		if err != nil {
			t.Fatal(err)
		}
		die()
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		die()
		if err := j.Done(seq, nil); err != nil {
			t.Fatal(err)
		}
		die()
	}
	if err := os.WriteFile(d.newFile(), []byte(`{"torn`), 0o600); err != nil {
		t.Fatal(err)
	}
	left = 0
	die()
}

// TestCrash: whatever step the owner dies at, the next one takes everything back.
func TestCrash(t *testing.T) {
	t.Parallel()
	for at := range 2 + 3*crashEffects + 1 {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			t.Parallel()
			d := newDir(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashChild$")
			cmd.Env = append(os.Environ(), "STATEDIR_CRASH_DIR="+string(d), "STATEDIR_CRASH_AT="+strconv.Itoa(at))
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("child: %v\n%s", err, out)
			}
			j, err := Open(d)
			if errors.Is(err, errdefs.ErrNotFound) && at == 0 {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = j.Close() }()
			err = j.Undo(t.Context(), undoing(func(_ context.Context, e Effect) error {
				if err := os.Remove(e.Path); err != nil && (e.Done || !errors.Is(err, os.ErrNotExist)) {
					return err
				}
				return nil
			}, KindFolder))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(string(d)); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(filepath.Dir(string(d))); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestMarked(t *testing.T) {
	marker := "CLOISTER_SANDBOX=" + t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Env = []string{marker}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := sys.ProcessOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := Marked(marker); err != nil || len(list) != 1 || list[0] != p {
		t.Errorf("Marked = %v, %v, want %v", list, err, p)
	}
	if err := UndoProcess(t.Context(), Effect{Kind: KindProcess, Detail: marker}); err != nil {
		t.Error(err)
	}
	if alive, err := p.Alive(); err != nil || alive {
		t.Errorf("the marked process lives: %t, %v", alive, err)
	}
	_ = cmd.Wait()
}

// TestCreateOnAFullDisk: without room for the first record the folder is gone again, and the
// sandbox can be made once there is room.
func TestCreateOnAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	state := t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=4k,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	filler := filepath.Join(state, "filler")
	if err := os.WriteFile(filler, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(state, "ns", "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(d, ""); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Create = %v, want ENOSPC", err)
	}
	if _, err := os.Stat(string(d)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder after that: %v, want none", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	j, err := Create(d, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
}
