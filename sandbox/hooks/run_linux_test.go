// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/oci"
	"cloister/sys"
	"cloister/tests/testenv"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func sh(script string, env ...string) oci.Hook {
	return oci.Hook{Path: "/bin/sh", Args: []string{"hook", "-c", script, "zero", "one"}, Env: env}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	state := State{ID: "c1", Status: Creating, Pid: 42, Bundle: dir, Annotations: map[string]string{"a": "b"}}
	hook := sh(`cat > "$OUT.state"; env > "$OUT.env"; printf '%s|%s|%s\n' "$0" "$1" "$PWD" > "$OUT"`, "OUT="+out, "X=y z")
	if err := Run(t.Context(), []oci.Hook{hook}, state, Namespaces{}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out + ".state")
	if err != nil {
		t.Fatal(err)
	}
	var got State
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("state %q: %v", data, err)
	}
	state.Version = specVersion
	if d := cmp.Diff(state, got); d != "" {
		t.Errorf("state (-want +got):\n%s", d)
	}
	if got, _ := os.ReadFile(out); string(got) != "zero|one|"+dir+"\n" {
		t.Errorf("arguments and folder: %q", got)
	}
	env, _ := os.ReadFile(out + ".env")
	for line := range strings.Lines(string(env)) {
		name, _, _ := strings.Cut(line, "=")
		if !strings.Contains(" OUT X PWD SHLVL _ OLDPWD ", " "+name+" ") {
			t.Errorf("environment has %q, which the hook does not list", line)
		}
	}
}

func TestRunErrors(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "ran")
	after := sh("touch " + mark)
	slow := sh("sleep 60 & echo $! > " + dir + "/child; wait")
	slow.TimeoutSeconds = 1
	tests := []struct {
		name string
		hook oci.Hook
		is   error
		text string
	}{
		{"exit code", sh("echo what went wrong >&2; exit 3"), nil, "exit status 3: what went wrong"},
		{"no program", oci.Hook{Path: "/nonexistent"}, os.ErrNotExist, "/nonexistent"},
		{"timeout", slow, context.DeadlineExceeded, "1s"},
		{
			"long output", sh("i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done >&2; echo the end >&2; exit 1"),
			nil, "the end",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Now()
			err := Run(t.Context(), []oci.Hook{tt.hook, after}, State{}, Namespaces{})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) ||
				!strings.Contains(err.Error(), tt.text) || len(err.Error()) > 2*tailBytes {
				t.Errorf("Run = %v, want %v with %q", err, tt.is, tt.text)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if _, err := os.Stat(mark); err == nil {
				t.Error("the next hook ran")
			}
		})
	}
	pid, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	if stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat"); err == nil &&
		!strings.Contains(string(stat), ") Z ") {
		t.Errorf("the hook's child lives: %s", stat)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := Run(ctx, []oci.Hook{sh("sleep 60")}, State{}, Namespaces{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
}

// TestRunDaemon: a hook may leave a process behind that holds its output.
func TestRunDaemon(t *testing.T) {
	file, begin := filepath.Join(t.TempDir(), "pid"), time.Now()
	if err := Run(t.Context(), []oci.Hook{sh("sleep 60 & echo $! >" + file)}, State{}, Namespaces{}); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("waited for the daemon: %v", took)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

// TestHookMayLeaveItsStateUnread: a state that nobody reads is no error.
func TestHookMayLeaveItsStateUnread(t *testing.T) {
	state := State{Annotations: map[string]string{"a": strings.Repeat("b", 1<<20)}}
	if err := Run(t.Context(), []oci.Hook{{Path: "/bin/true"}}, state, Namespaces{}); err != nil {
		t.Error(err)
	}
}

func TestRunAll(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "ran")
	err := RunAll(t.Context(), []oci.Hook{sh("exit 1"), sh("touch " + mark), sh("exit 2")}, State{}, Namespaces{})
	if err == nil || !strings.Contains(err.Error(), "status 1") || !strings.Contains(err.Error(), "status 2") {
		t.Errorf("RunAll = %v, want both errors", err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the second hook did not run: %v", err)
	}
}

// TestRunNamespaces: a hook runs in the namespaces it is given, and the process
// stays in its own.
func TestRunNamespaces(t *testing.T) {
	testenv.NeedRoot(t)
	var ns Namespaces
	own, _ := os.Readlink("/proc/self/ns/net")
	err := sys.OnThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			ns.Mount, err = os.Open("/proc/thread-self/ns/mnt")
		}
		if err == nil {
			ns.Network, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		testenv.Need(t, testenv.Namespaces, err.Error())
	}
	out := filepath.Join(t.TempDir(), "out")
	hook := sh("readlink /proc/self/ns/mnt /proc/self/ns/net > " + out)
	if err := Run(t.Context(), []oci.Hook{hook}, State{}, ns); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(out)
	for _, f := range []*os.File{ns.Mount, ns.Network} {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(got), ":["+uitoa(st.Ino)+"]") {
			t.Errorf("hook ran in %q, want inode %d", got, st.Ino)
		}
	}
	if strings.Contains(string(got), own) {
		t.Error("the process's own namespace was used")
	}
}

func uitoa(n uint64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
