// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"cloister/labels/policy"
	"cloister/tests/testenv"
)

// answer asks a compiled policy about one access at two levels. A target is a process's context or a file's, whichever the policy knows.
func answer(k policy.Kernel, w want, source, target string) (bool, error) {
	from := process(w.source, source)
	got, err := k.Allowed(from, process(w.target, target), w.class, w.permission)
	if errors.Is(err, syscall.EINVAL) {
		got, err = k.Allowed(from, object(w.target, target), w.class, w.permission)
	}
	return got.Allowed, err
}

// questions asks a compiled policy what the matrix will try in the machine, and what the shim asks before it starts a sandbox.
func questions(t *testing.T, path string) {
	t.Helper()
	k, err := policy.OpenCompiled(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	for _, kvm := range []bool{true, false} {
		if err := policy.SelfTest(k, policy.Own(kvm)); err != nil {
			t.Errorf("%s, KVM %t: %v", path, kvm, err)
		}
	}
	asked, denied := 0, 0
	for _, a := range append(attempts(), onRunning()...) {
		source, target := levelA, levelB
		for _, p := range parties() {
			if p.name == a.target() {
				target = p.level
			}
		}
		if a.tag == cpb {
			target = source
		}
		allowed, err := answer(k, a.want, source, target)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EINVAL):
			t.Logf("%s: not asked: %v", a.key(), err)
			continue
		case err != nil:
			t.Fatal(err)
		case allowed:
			t.Errorf("%s: %s is allowed", a.key(), a.want)
		default:
			denied++
		}
		asked++
	}
	t.Logf("%s: %d of the matrix's accesses asked, %d denied", path, asked, denied)
}

// TestCompiledPolicy asks a policy that COMPILED_POLICY names, with cloister's module in it: any distribution's, without a machine.
func TestCompiledPolicy(t *testing.T) {
	testenv.NeedTool(t, "checkpolicy")
	path := os.Getenv("COMPILED_POLICY")
	if path == "" {
		t.Skip("COMPILED_POLICY names no compiled policy; the lab asks its own before the machine starts")
	}
	questions(t, path)
}
