// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"cloister/labels"
	"cloister/sys"

	"golang.org/x/sys/unix"
)

const crowdDir = "CLOISTER_TEST_CROWD_DIR" // set: this process is one of the crowd

// TestLevelsAreUnique lets 64 processes reserve and release 10,000 pairs while they are killed at
// random. Every pair that is held is locked in a folder of the test's own: a lock that is taken
// already is a duplicate, an entry at the end is a leak.
func TestLevelsAreUnique(t *testing.T) {
	total := 10000
	if testing.Short() {
		total = 1000
	}
	dir := t.TempDir()
	for _, folder := range []string{"registry", "held"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLevelsAreUniqueProcess$")
		cmd.Env = append(os.Environ(), crowdDir+"="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	crowd := make([]*exec.Cmd, 64)
	for i := range crowd {
		crowd[i] = start()
	}
	kills := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for reservations(dir) < total && ctx.Err() == nil {
		<-tick.C
		i := rand.IntN(len(crowd))
		if err := crowd[i].Process.Kill(); err != nil {
			t.Errorf("member %d ended by itself: %v", i, err)
			break
		}
		_ = crowd[i].Wait()
		kills++
		crowd[i] = start()
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, cmd := range crowd {
		if err := cmd.Wait(); err != nil {
			t.Errorf("member %d: %v", i, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "problems")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("problems: %s %v", text, err)
	}
	r := openCrowd(t, dir)
	left, err := r.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reclaim(ctx); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, r, 0)
	t.Logf("%d reservations by %d processes, %d killed, %d entries of dead owners reclaimed at the end",
		reservations(dir), len(crowd), kills, len(left))
}

func reservations(dir string) int {
	info, err := os.Stat(filepath.Join(dir, "count"))
	if err != nil {
		return 0
	}
	return int(info.Size())
}

// TestLevelsAreUniqueProcess is one process of the crowd; alone it does nothing. It ends without
// giving back what it holds.
func TestLevelsAreUniqueProcess(t *testing.T) {
	dir := os.Getenv(crowdDir)
	if dir == "" {
		t.Skip("runs as a member of TestLevelsAreUnique")
	}
	r := openCrowd(t, dir)
	type hold struct {
		level labels.Level
		lock  *os.File
	}
	var holds []hold
	for round := 0; ; round++ {
		if _, err := os.Stat(filepath.Join(dir, "stop")); err == nil {
			return
		}
		if len(holds) == 4 || (len(holds) > 0 && rand.IntN(2) == 0) {
			h := holds[0]
			holds = holds[1:]
			_ = h.lock.Close()
			if err := r.Release(t.Context(), strconv.Itoa(os.Getpid()), h.level); err != nil {
				report(t, dir, err.Error())
			}
			continue
		}
		e, err := r.Reserve(t.Context(), Request{Sandbox: strconv.Itoa(os.Getpid())})
		if err != nil {
			report(t, dir, err.Error())
			return
		}
		lock, err := os.OpenFile(filepath.Join(dir, "held", e.Level.Categories.String()), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			report(t, dir, "duplicate "+e.Level.String())
			return
		}
		holds = append(holds, hold{e.Level, lock})
		add(t, dir, "count", "x")
		if round%50 == 49 {
			if _, err := r.Reclaim(t.Context()); err != nil {
				report(t, dir, err.Error())
			}
		}
	}
}

func openCrowd(t *testing.T, dir string) *Registry {
	t.Helper()
	start, ok := startTime(os.Getpid())
	if !ok {
		t.Fatal("no start time")
	}
	r, err := Open(Options{
		Dir: filepath.Join(dir, "registry"), Range: Range{Max: 39}, // 780 pairs for up to 256
		Self: sys.Process{PID: os.Getpid(), Start: start, Boot: "boot"},
		Alive: func(o sys.Process) (bool, error) {
			start, ok := startTime(o.PID)
			return ok && start == o.Start, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startTime gives the start time of a process that lives.
func startTime(pid int) (uint64, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	// As lsm has it: while other threads are left they hold the process's files, and so its locks
	// here.
	ended := (fields[0][0] == 'Z' || fields[0][0] == 'X') && string(fields[17]) <= "1"
	return start, err == nil && !ended
}

func report(t *testing.T, dir, text string) {
	t.Helper()
	add(t, dir, "problems", text+"\n")
	t.Error(text)
}

func add(t *testing.T, dir, file, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
