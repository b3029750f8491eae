// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/jail"
	"cloister/tests/machine/served"
)

// TestFlush checks what virtiofsd answers to a close by the guest. With skip_flush it must be
// ENOSYS: any other error would be one of close(2) in the guest.
func TestFlush(t *testing.T) {
	for name, tt := range map[string]struct {
		config jail.Config
		want   error
	}{
		"served":  {jail.Config{}, nil},
		"skipped": {jail.Config{SkipFlush: true}, unix.ENOSYS},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostWith(t, served.Options{Jail: tt.config})
			id, err := h.guest.lookup(h.folder(t, "a", "rw"), "file")
			if err != nil {
				t.Fatal(err)
			}
			var fh uint64
			for range 64 { // the flush of the first few files is served
				if fh, err = h.guest.open(id, unix.O_RDWR); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.guest.write(id, fh, "more"); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := h.guest.flush(id, fh); !errors.Is(err, tt.want) {
					t.Errorf("flush = %v, want %v", err, tt.want)
				}
			}
			if got, err := h.guest.read(id, fh); got != "more" {
				t.Errorf("after the flush, read = %q, %v", got, err)
			}
			if got, err := os.ReadFile(filepath.Join(h.volume, "file")); string(got) != "more" {
				t.Errorf("the host reads %q, %v", got, err)
			}
		})
	}
}
