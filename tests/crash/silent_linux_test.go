// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestErrorOfASilentGuestNamesWhatItWaitsFor: the error of a call that a guest does not answer
// names the call, and the process of the host that is at fault. Both wait for the two minutes that
// a guest has, beside each other.
func TestErrorOfASilentGuestNamesWhatItWaitsFor(t *testing.T) { //nolint:tparallel // only its sandboxes wait beside each other
	s := newStage(t)
	for program, part := range map[string]string{"qemu-system": "QEMU", "virtiofsd": "the file server"} {
		id := "silent-" + program
		folder := filepath.Join(s.Dir, id)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		s.Start(t, id, []string{"--mount", "type=bind,src=" + folder + ",dst=/v,options=rbind:rw"})
		// The guest has not seen this file and has to ask for it.
		if err := os.WriteFile(filepath.Join(folder, "program"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		pid := s.Marked(t, id, program)
		s.Place.Run(t, "kill", "-STOP", strconv.Itoa(pid))
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			r := s.Within(t, host.CallLimit, "task", "exec", "--exec-id", "x", id, "/v/program")
			for _, want := range []string{"the guest does not answer", "Exec for 2m", fmt.Sprintf("%s (pid %d) is stopped", part, pid)} {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("exec says %q, exit %d: want %q in it", r.Stderr, r.Code, want)
				}
			}
			s.AwaitStatus(t, id, "STOPPED")
		})
	}
}
