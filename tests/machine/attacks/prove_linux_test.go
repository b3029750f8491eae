// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cloister/sandbox/prove"
	"cloister/tests/host"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
	"cloister/tests/threats"
)

// bed is a place with a configuration of cloister.
type bed struct {
	*host.Place
	program string
	class   string // empty: the config's, which is vm
	watched leaks.Host
}

func newBed(t *testing.T, more string) *bed {
	t.Helper()
	testenv.NeedQEMU(t)
	testenv.NeedVirtiofsd(t)
	testenv.NeedGuest(t)
	b := &bed{Place: host.New(t), program: filepath.Join(testenv.Build(t), "cloister")}
	b.WriteCloisterConfig(t, more)
	b.watch()
	return b
}

// watch says where to look for what was left.
func (b *bed) watch() {
	b.watched = leaks.Host{
		Place: b.Place, CgroupParent: "cloister",
		Folders: []string{"/run/cloister", filepath.Join(b.Dir, "cloister"), "/dev/shm"},
	}
}

func (b *bed) prove(ctx context.Context) *exec.Cmd {
	args := []string{"--config", filepath.Join(b.Dir, "cloister.toml"), "prove", "--output", "json"}
	if b.class != "" {
		args = append(args, "--class", b.class)
	}
	return b.Command(ctx, b.program, args...)
}

// report runs prove to its end.
func (b *bed) report(t *testing.T) (prove.Report, error) {
	t.Helper()
	cmd := b.prove(t.Context())
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	err := cmd.Run()
	var r prove.Report
	if failed := json.Unmarshal(out.Bytes(), &r); failed != nil {
		t.Fatalf("prove: %v, %v\n%s%s", err, failed, out.String(), messages.String())
	}
	t.Log(messages.String())
	return r, err
}

// left is what is new on the host. In the parent of prove's cgroups other tests have theirs.
func (b *bed) left(t *testing.T, before leaks.Snapshot) []string {
	t.Helper()
	var left []string
	// The kernel ends a pid namespace's first process after its parent, and does not say when.
	host.Await(host.Patience, func() string {
		left = slices.DeleteFunc(leaks.Compare(before, leaks.Look(t, b.watched)), func(what string) bool {
			return strings.HasPrefix(what, "cgroup ") && !strings.Contains(what, "prove-")
		})
		return strings.Join(left, ", ")
	})
	return left
}

// TestProve has every attack fail, and each succeed that root makes without a layer. Attacks that
// one layer alone stops are listed in docs/threats.md. Nothing is left.
func TestProve(t *testing.T) {
	b := newBed(t, "")
	before := leaks.Look(t, b.watched)
	r, err := b.report(t)
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	if (threats.Check(t, r) > 0) != (err != nil) {
		t.Errorf("prove: %v, with %d attacks that succeeded", err, len(r.Succeeded()))
	}
	if left := b.left(t, before); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	fmt.Println(r.Verdict)
}

// TestProveFindsAMissingLayer switches a part of the jail off: an attack that this part alone stops
// succeeds, is named, and makes the exit status 3.
func TestProveFindsAMissingLayer(t *testing.T) {
	b := newBed(t, "[jail]\ndisable = [\"seccomp\"]\n")
	r, err := b.report(t)
	if exit := (*exec.ExitError)(nil); err == nil || !asExit(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("prove without seccomp: %v, want exit status 3", err)
	}
	for _, o := range r.Succeeded() {
		if o.Attack == "keyctl" {
			return
		}
	}
	t.Errorf("keyctl is not among what succeeded: %+v", r.Succeeded())
}

func asExit(err error, to **exec.ExitError) (ok bool) {
	*to, ok = err.(*exec.ExitError) //nolint:errorlint // of Run, which wraps nothing
	return ok
}

// TestProveEndsOnASignal ends prove while its sandboxes run: nothing is left.
func TestProveEndsOnASignal(t *testing.T) {
	newBed(t, "").endsOnASignal(t)
}

// endsOnASignal ends prove and its child once an attacker runs.
func (b *bed) endsOnASignal(t *testing.T) {
	t.Helper()
	before := leaks.Look(t, b.watched)
	cmd := b.prove(context.WithoutCancel(t.Context()))
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if missing := host.Await(host.Patience, func() string {
		for _, line := range b.Processes(t) {
			if strings.Contains(line, "prove-attacker") {
				return ""
			}
		}
		return "no attacker runs"
	}); missing != "" {
		t.Error(missing)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("prove that was ended: no error")
	}
	if left := b.left(t, before); len(left) > 0 {
		t.Errorf("left: %q\n%s", left, messages.String())
	}
}
