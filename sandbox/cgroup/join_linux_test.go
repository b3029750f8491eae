// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestLeave moves the named processes of a group out of every hierarchy, and no other.
func TestLeave(t *testing.T) {
	testenv.NeedRoot(t)
	g, err := At("/cloister-test/leave-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(Limits{}); err != nil {
		testenv.Need(t, testenv.Cgroups, err.Error())
	}
	t.Cleanup(func() {
		for _, h := range g.hosts {
			_ = unix.Rmdir(filepath.Join(h.mount, "cloister-test"))
		}
	})
	read := func(pid int) string {
		t.Helper()
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var pids []int
	for range 3 {
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = g.Remove(t.Context()) })
		pids = append(pids, cmd.Process.Pid)
	}
	before := read(pids[2])
	for _, pid := range pids[:2] {
		if err := Join(g.String(), pid); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := pids[2]
	if err := g.Leave([]int{pids[0], elsewhere, 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if got := read(pids[0]); got != before {
		t.Errorf("cgroups of the process that left:\n%s\nwant those of this process:\n%s", got, before)
	}
	if got := read(pids[1]); !strings.Contains(got, g.String()) {
		t.Errorf("cgroups of a process that was not named:\n%s\nwant %s", got, g)
	}
	if got := read(elsewhere); got != before {
		t.Errorf("cgroups of a process of another group:\n%s\nwant\n%s", got, before)
	}
}
