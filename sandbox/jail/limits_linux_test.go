// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestLimitsHold starts a shell with limits, as another user: it cannot grow a file beyond them or
// raise them, and Verify finds a process that has others.
func TestLimitsHold(t *testing.T) {
	testenv.NeedRoot(t)
	for name, owner := range map[string]Owner{"root": {}, "a user of its own": {ID: leastBase}} {
		t.Run(name, func(t *testing.T) {
			j := Jail{Owner: owner, Limits: Limits{FileBytes: 1 << 20, NoLocked: true}, Bounding: new(Set)}
			dir := t.TempDir()
			if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, int(owner.ID), int(owner.ID))); err != nil {
				t.Fatal(err)
			}
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			defer write.Close()
			// The shell waits for its limits on its standard input.
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `read go
ulimit -H -f unlimited 2>/dev/null && exit 11
ulimit -H -l 64 2>/dev/null && exit 12
head -c 1048576 /dev/zero > at || exit 13
head -c 1048577 /dev/zero > above 2>/dev/null && exit 14
exit 0`)
			cmd.Dir, cmd.Stdin = dir, read
			if err := j.Start(cmd); err != nil {
				t.Fatal(err)
			}
			if err := j.Limits.check(cmd.Process.Pid); err != nil {
				t.Error(err)
			}
			stricter := Limits{FileBytes: 1<<20 - 1}
			if err := stricter.check(cmd.Process.Pid); !errors.Is(err, ErrEscaped) {
				t.Errorf("check of another limit = %v, want %v", err, ErrEscaped)
			}
			if _, err := write.WriteString("go\n"); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the shell: %v (11: raised the file size, 12: raised locked memory, 13: could not reach the limit, "+
					"14: went beyond it)", err)
			}
		})
	}
}

// TestEachLimitIsCompared changes one limit at a time of a text that fits. A process could raise a
// soft limit to its hard one.
func TestEachLimitIsCompared(t *testing.T) {
	const fits = "Max core file size 0 0 bytes\nMax locked memory 0 0 bytes\nMax file size 1048576 1048576 bytes\n"
	l := Limits{NoLocked: true, FileBytes: 1 << 20}
	if err := l.compare(fits); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []string{"core file size 0 0", "locked memory 0 0", "file size 1048576 1048576"} {
		name := strings.TrimRight(limit, "0123456789 ")
		for _, values := range []string{" 0 unlimited", " 0 1048577", " 1048577 1048577"} {
			text := strings.Replace(fits, "Max "+limit, "Max "+name+values, 1)
			if err := l.compare(text); !errors.Is(err, ErrEscaped) {
				t.Errorf("%s%s: compare = %v, want %v", name, values, err, ErrEscaped)
			}
		}
	}
}

func TestParseLimit(t *testing.T) {
	const text = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max file size             1048576              unlimited            bytes     \nMax locked memory         x\n"
	if soft, hard, err := parseLimit(text, "Max file size"); soft != 1<<20 || hard != unix.RLIM_INFINITY || err != nil {
		t.Errorf("parseLimit = %d, %d, %v", soft, hard, err)
	}
	for _, name := range []string{"Max locked memory", "Max core file size"} {
		if _, _, err := parseLimit(text, name); err == nil {
			t.Errorf("parseLimit of %q: no error", name)
		}
	}
}
