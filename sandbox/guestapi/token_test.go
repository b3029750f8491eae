// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func TestReadStreamName(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     StreamName
		wantErr  error
	}{
		{name: "control", in: "\x05ttrpc", want: ControlStream},
		{name: "io", in: "\x06io/a-1more", want: "io/a-1"},
		{name: "tcp", in: "\x06tcp/80more", want: "tcp/80"},
		{name: "port 0", in: "\x05tcp/0", wantErr: errdefs.ErrInvalidArgument},
		{name: "port with a sign", in: "\x07tcp/+80", wantErr: errdefs.ErrInvalidArgument},
		{name: "port with zeros", in: "\x08tcp/0080", wantErr: errdefs.ErrInvalidArgument},
		{name: "port out of range", in: "\x09tcp/65536", wantErr: errdefs.ErrInvalidArgument},
		{name: "empty", in: "\x00", wantErr: errdefs.ErrInvalidArgument},
		{name: "too long", in: "\xff" + strings.Repeat("a", 255), wantErr: errdefs.ErrInvalidArgument},
		{name: "unknown", in: "\x03foo", wantErr: errdefs.ErrInvalidArgument},
		{name: "no token", in: "\x03io/", wantErr: errdefs.ErrInvalidArgument},
		{name: "path", in: "\x08io/../..", wantErr: errdefs.ErrInvalidArgument},
		{name: "cut", in: "\x06io/", wantErr: io.ErrUnexpectedEOF},
		{name: "nothing", wantErr: io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadStreamName(strings.NewReader(tt.in))
			if !errors.Is(err, tt.wantErr) || got != tt.want {
				t.Errorf("ReadStreamName(%q) = %q, %v, want %q, %v", tt.in, got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func FuzzReadStreamName(f *testing.F) {
	f.Add([]byte("\x05ttrpc"))
	f.Add([]byte("\x06io/a-1more"))
	f.Add([]byte("\x06tcp/80"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		name, err := ReadStreamName(r)
		if err != nil {
			return
		}
		if read := len(in) - r.Len(); !bytes.Equal(name.encode(), in[:read]) {
			t.Errorf("ReadStreamName(%q) = %q, which is %q on the wire", in[:read], name, name.encode())
		}
		if token, ok := name.Token(); ok && strings.ContainsAny(string(token), "/.\x00 ") {
			t.Errorf("ReadStreamName(%q) gives the token %q", in, token)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("plain", 3)
	f.Add("\x1b[2J\xff\u202e\n", 10)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		got := Text(in, limit)
		if len(got) > limit+len("...") || !utf8.ValidString(got) {
			t.Errorf("Text(%q, %d) = %q", in, limit, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("Text(%q, %d) has %q in it", in, limit, r)
			}
		}
	})
}
