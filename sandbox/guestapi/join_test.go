// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writes keeps each Write apart.
type writes struct {
	io.ReadWriteCloser
	got [][]byte
}

func (w *writes) Write(p []byte) (int, error) {
	w.got = append(w.got, bytes.Clone(p))
	return len(p), nil
}

func TestJoiner(t *testing.T) {
	body := []byte("twelve bytes") // as long as a header
	update := frame(0, frameWindowUpdate, 0, 1, 5)
	last := frame(0, frameData, 4, 1, 0) // without a body
	w := &writes{}
	j := &joiner{ReadWriteCloser: w}
	for _, p := range [][]byte{frame(0, frameData, 0, 1, 12), body, update, frame(0, frameData, 0, 1, 3), []byte("abc"), last} {
		if n, err := j.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write of %d bytes = %d, %v", len(p), n, err)
		}
	}
	want := [][]byte{
		append(frame(0, frameData, 0, 1, 12), body...), update,
		append(frame(0, frameData, 0, 1, 3), "abc"...), last,
	}
	if diff := cmp.Diff(want, w.got); diff != "" {
		t.Error(diff)
	}
}
