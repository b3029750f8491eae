// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutputOutlivesALackOfDescriptors has the sink's own reader be gone, as when it could not be
// opened again. The end of the output must not close the pipe then: nobody has read it.
func TestOutputOutlivesALackOfDescriptors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openFIFOSink(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Write([]byte("word"))
	s.mu.Lock()
	err = errors.Join(err, s.r.Close())
	s.r = nil
	s.mu.Unlock()
	if err := errors.Join(err, s.finish()); err != nil {
		t.Fatal(err)
	}
	client, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	got := make([]byte, 8)
	if n, err := client.Read(got); err != nil || string(got[:n]) != "word" {
		t.Errorf("the client read %q, %v", got[:n], err)
	}
}
