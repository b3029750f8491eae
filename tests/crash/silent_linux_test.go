// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestErrorOfASilentGuestNamesWhatItWaitsFor: the error of a call that a guest does not answer
// names the call, and the process of the host that is at fault. All wait for the two minutes that
// a guest has, beside each other.
func TestErrorOfASilentGuestNamesWhatItWaitsFor(t *testing.T) { //nolint:tparallel // only its sandboxes wait beside each other
	s := newStage(t)
	exec := []string{"task", "exec", "--exec-id", "x"}
	for id, c := range map[string]struct {
		program, part, call string
		verb, arguments     []string // before and after the container's name
	}{
		"exec-qemu":   {"qemu-system", "QEMU", "Exec", exec, []string{"/v/program"}},
		"exec-server": {"virtiofsd", "the file server", "Exec", exec, []string{"/v/program"}},
		"kill-qemu":   {"qemu-system", "QEMU", "Kill", []string{"task", "kill", "--signal", "SIGUSR1"}, nil},
	} {
		folder := filepath.Join(s.Dir, id)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		s.Start(t, id, []string{"--mount", "type=bind,src=" + folder + ",dst=/v,options=rbind:rw"})
		// The guest has not seen this file and has to ask for it.
		if err := os.WriteFile(filepath.Join(folder, "program"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		pid := s.Marked(t, id, c.program)
		s.Place.Run(t, "kill", "-STOP", strconv.Itoa(pid))
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			r := s.Within(t, host.CallLimit, slices.Concat(c.verb, []string{id}, c.arguments)...)
			stopped := fmt.Sprintf("%s (pid %d) is stopped", c.part, pid)
			for _, want := range []string{"the guest does not answer", c.call + " for 2m", stopped} {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("%s says %q, exit %d: want %q in it", c.call, r.Stderr, r.Code, want)
				}
			}
			s.AwaitStatus(t, id, "STOPPED")
		})
	}
}
