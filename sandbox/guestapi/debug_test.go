// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrame(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, FrameOutput, make([]byte, MaxFrame+1)); err == nil || b.Len() > 0 {
		t.Errorf("WriteFrame of too much = %v, %d bytes written", err, b.Len())
	}
	want := Frame{FrameOutput, []byte("some")}
	if err := WriteFrame(&b, want.Kind, want.Data); err != nil {
		t.Fatal(err)
	}
	b.WriteString("more")
	got, err := ReadFrame(&b, FrameExit, FrameOutput)
	if diff := cmp.Diff(want, got); err != nil || diff != "" || b.String() != "more" {
		t.Errorf("ReadFrame = %v, rest %q:\n%s", err, b.String(), diff)
	}
	for name, in := range map[string]string{
		"kind":          "i\x00\x01x",
		"length":        "o\xff\xff",
		"exit status":   "x\x00\x02ab",
		"ends early":    "o\x00\x05ab",
		"no such":       "?\x00\x00",
		"empty of exit": "x\x00\x00",
	} {
		if _, err := ReadFrame(bytes.NewReader([]byte(in)), FrameOutput, FrameExit, FrameError); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: ReadFrame(%q) = %v, want ErrProtocol", name, in, err)
		}
	}
	if _, err := ReadFrame(bytes.NewReader(nil), FrameOutput); !errors.Is(err, io.EOF) {
		t.Errorf("ReadFrame of nothing = %v, want EOF", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("o\x00\x03abcx\x00\x01\x07"))
	f.Add([]byte("e\x80\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			frame, err := ReadFrame(r, FrameOutput, FrameExit, FrameError)
			if err != nil {
				return
			}
			if len(frame.Data) > MaxFrame || frame.Kind == FrameExit && len(frame.Data) != 1 {
				t.Fatalf("ReadFrame = kind %q, %d bytes", frame.Kind, len(frame.Data))
			}
		}
	})
}
