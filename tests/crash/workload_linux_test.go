// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// TestRefusedCommands wants commands that do not run to end as with runc: the same exit code, the
// same words.
func TestRefusedCommands(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	peer := *s.Bed
	peer.Runtime = bed.Runc
	peer.Start(t, "runc", nil)
	s.Start(t, "cloister", nil)
	for name, text := range map[string]string{
		"/nowhere": "no such file or directory", "nowhere": "executable file not found", "/etc/passwd": "permission denied", "/etc": "",
	} {
		wantExec := peer.Exec(t, "runc", "e", name)
		gotExec := s.Exec(t, "cloister", "e", name)
		if gotExec.Code != wantExec.Code || !strings.Contains(wantExec.Stderr, text) || !strings.Contains(gotExec.Stderr, text) {
			t.Errorf("exec %s = %+v, with runc %+v, want %q in both", name, gotExec, wantExec, text)
		}
		wantRun := peer.Run(t, peer.Args("r", []string{"--rm"}, name)...)
		gotRun := s.Run(t, s.Args("r", []string{"--rm"}, name)...)
		if gotRun.Code != wantRun.Code || !strings.Contains(wantRun.Stderr, text) || !strings.Contains(gotRun.Stderr, text) {
			t.Errorf("run %s = %+v, with runc %+v, want %q in both", name, gotRun, wantRun, text)
		}
	}
	for _, code := range []string{"126", "127"} {
		if r := s.Exec(t, "cloister", "e", "sh", "-c", "exit "+code); fmt.Sprint(r.Code) != code {
			t.Errorf("exit %s = %+v", code, r)
		}
	}
	s.Remove(t, "cloister")
	peer.Remove(t, "runc")
	s.NothingLeft(t, before)
}

// TestWorkloadOutOfMemoryAndDisk has workloads run out of memory and of disk: that is theirs alone.
func TestWorkloadOutOfMemoryAndDisk(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	s.events = s.Watch(t)
	s.Place.Run(t, "sh", "-c", "mkdir -p /run/small && mount -t tmpfs -o size=1m none /run/small")
	t.Cleanup(func() { s.clean(t, "umount", "/run/small") })
	before := s.Look(t)
	s.Start(t, "c", []string{"--memory-limit", "67108864", "--mount", "type=bind,src=/run/small,dst=/small,options=bind:rw"},
		"sh", "-c", "tail /dev/zero; echo $? >/ended; sleep 1000")
	code := ""
	if !bed.Await(callLimit, func() bool { code = s.Exec(t, "c", "look", "cat", "/ended").Stdout; return code != "" }) {
		t.Fatal("what takes all memory does not end")
	}
	if code != "137\n" {
		t.Errorf("what takes all memory ended with %q, want 137", code)
	}
	if !bed.Await(callLimit, func() bool {
		for _, e := range s.events() {
			if e.Topic == "oom" && e.Container == "c" {
				return true
			}
		}
		return false
	}) {
		t.Error("containerd got no event that the container ran out of memory")
	}
	if r := s.Exec(t, "c", "full", "dd", "if=/dev/zero", "of=/small/x", "bs=64k"); r.Code == 0 ||
		!strings.Contains(r.Stderr, "No space left") {
		t.Errorf("dd to a full disk = %+v", r)
	}
	if r := s.Exec(t, "c", "after", "echo", "well"); r.Stdout != "well\n" {
		t.Errorf("exec after both = %+v", r)
	}
	s.Remove(t, "c")
	s.NothingLeft(t, before)
}
