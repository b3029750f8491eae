// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/sandbox/crun"
	"cloister/tests/host"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
	"cloister/tests/threats"
)

// newPlainBed is a place whose sandboxes are plain containers, made by runtime.
func newPlainBed(t *testing.T, runtime string) *bed {
	t.Helper()
	testenv.NeedRoot(t)
	b := &bed{Place: host.New(t), program: filepath.Join(testenv.Build(t), "cloister"), class: "process"}
	b.WriteCloisterConfig(t, fmt.Sprintf("[process]\nruntime = %q\n", runtime))
	b.watch()
	return b
}

// hostsRuntime is the OCI runtime that a configuration without one takes.
func hostsRuntime(t *testing.T) string {
	t.Helper()
	testenv.NeedTool(t, "runc")
	testenv.NeedTool(t, "crun")
	program, err := crun.Find("")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// TestProvePlainContainers has every attack from a plain container fail, and each succeed that root
// makes without a layer. Attacks that one layer alone stops are listed in docs/threats.md. Nothing
// is left.
func TestProvePlainContainers(t *testing.T) {
	b := newPlainBed(t, hostsRuntime(t))
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
	if r.Class != "process" || len(r.NotAttacked) == 0 {
		t.Errorf("class %q, not attacked: %q", r.Class, r.NotAttacked)
	}
	if left := b.left(t, before); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	fmt.Println(r.Verdict)
}

// withoutSeccomp is an OCI runtime that leaves the filter of system calls out.
const withoutSeccomp = `#!/bin/sh
for word; do
	[ "$before" = --bundle ] && sed -i 's/"seccomp":/"without":/' "$word/config.json"
	before=$word
done
exec %s "$@"
`

// TestProvePlainFindsAMissingLayer has an OCI runtime make containers without the filter of system
// calls: attacks that it alone stops succeed, are named, and make the exit status 3.
func TestProvePlainFindsAMissingLayer(t *testing.T) {
	wrapper := filepath.Join(t.TempDir(), "without-seccomp")
	text := fmt.Sprintf(withoutSeccomp, hostsRuntime(t))
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	b := newPlainBed(t, wrapper)
	r, err := b.report(t)
	if exit := (*exec.ExitError)(nil); err == nil || !asExit(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("prove without seccomp: %v, want exit status 3", err)
	}
	succeeded := map[string]bool{}
	for _, o := range r.Succeeded() {
		succeeded[o.Attack] = true
	}
	for _, name := range []string{"keyctl", "io_uring", "user namespace"} {
		if !succeeded[name] {
			t.Errorf("%s is not among what succeeded: %v", name, succeeded)
		}
	}
}

// TestProvePlainEndsOnASignal ends prove while its containers run: nothing is left.
func TestProvePlainEndsOnASignal(t *testing.T) {
	b := newPlainBed(t, hostsRuntime(t))
	b.endsOnASignal(t)
}
