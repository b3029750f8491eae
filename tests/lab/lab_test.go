// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/lab/wire"
	"cloister/tests/testenv"
)

// labTime bounds the whole lab, with a root to be made.
const labTime = 12 * time.Minute

// boot builds what the machine needs and starts it, enforcing from the first load of its policy.
func boot(t *testing.T, more ...file) *machine {
	t.Helper()
	testenv.NeedRoot(t)
	qemu := testenv.NeedQEMU(t)
	for _, name := range []string{"debootstrap", "setfiles", "mke2fs", "checkmodule", "semodule_package", "semodule", "go"} {
		testenv.NeedTool(t, name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTime)
	t.Cleanup(cancel)
	begin := time.Now()
	stage := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
	work := t.TempDir()
	made, err := makeRoot(ctx, testenv.Cache(), labRecipe())
	if err != nil {
		t.Fatal(err)
	}
	stage("root")
	compiled, err := makePolicies(ctx, testenv.Cache(), made)
	if err != nil {
		t.Fatal(err)
	}
	stage("policy")
	files, err := programs(ctx, work)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := makeDisk(ctx, work, compiled, append(files, more...))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := makeInitrd(work, made)
	if err != nil {
		t.Fatal(err)
	}
	stage("disk")
	m, err := start(ctx, config{
		qemu: qemu, kernel: made.kernel(), initrd: initrd, root: made.image(), disk: disk,
		memoryMiB: 4096, console: filepath.Join(work, "console"), enforcing: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Errorf("stop the lab: %v", err)
		}
	})
	answer, err := m.ask(wire.Request{Read: &wire.Read{Path: "/sys/fs/selinux/enforce"}}, 3*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(answer.Out) != "1" {
		t.Fatalf("the lab does not enforce: %q", answer.Out)
	}
	stage("boot")
	return m
}

func TestLab(t *testing.T) {
	m := boot(t)
	for _, argv := range [][]string{{"/usr/bin/id", "-Z"}, {"/usr/bin/ls", "-lZ", "/dev/kvm", "/lab/bin", "/lab/probe"}} {
		answer, err := m.run(wire.Run{Argv: argv})
		t.Logf("%q: %v %d\n%s\n%s", argv, err, answer.Exit, answer.Out, strings.Join(answer.Audit, "\n"))
	}
}
