// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/host"
)

// TestAbandoned has a client go while the guest, which stands still, makes a second container: nothing of that is left in the guest, and the
// container can be made again.
func TestAbandoned(t *testing.T) {
	s := newStage(t)
	name := func(suffix string) string { return filepath.Join(s.dir, "first."+suffix) }
	for _, fifo := range []string{name("held"), name("go")} {
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name("hold"), []byte("streams reached #2"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start(t, "first", nil)
	machine := s.Marked(t, "first", "qemu-system")
	second := s.Args("second", []string{"--detach", "--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", machine)}, "sleep", "1000")
	t.Cleanup(func() { s.Remove(t, "second") })
	ended := make(chan host.Result, 1)
	go func() { ended <- s.Run(t, append([]string{"--timeout", "3s"}, second...)...) }()
	if _, err := os.ReadFile(name("held")); err != nil { // what comes next is asked of the guest
		t.Fatal(err)
	}
	s.Place.Run(t, "kill", "-STOP", strconv.Itoa(machine))
	if err := os.WriteFile(name("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := <-ended; r.Code == 0 {
		t.Error("a guest that stands still has made a container")
	}
	s.Place.Run(t, "kill", "-CONT", strconv.Itoa(machine))
	if wrong := host.Await(host.Patience, func() string {
		s.Remove(t, "second")
		if r := s.Run(t, second...); r.Code != 0 {
			return r.Stderr
		}
		return ""
	}); wrong != "" {
		t.Errorf("the same container once more: %s", wrong)
	}
}
