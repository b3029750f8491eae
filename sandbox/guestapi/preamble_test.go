// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParseHello(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Hello
		wantErr  error
	}{
		{
			name: "all", in: "cloister/1 1.2.3-rc.1 uptime_ms=1234 mem_used_kib=40000 init_ms=900",
			want: Hello{
				Protocol: 1, AgentVersion: "1.2.3-rc.1", Uptime: 1234 * time.Millisecond,
				InitAt: 900 * time.Millisecond, MemUsedKiB: 40000,
			},
		},
		{name: "no fields", in: "cloister/1 dev", want: Hello{Protocol: 1, AgentVersion: "dev"}},
		{name: "another protocol", in: "cloister/7 dev", want: Hello{Protocol: 7, AgentVersion: "dev"}},
		{name: "unknown field", in: "cloister/1 dev cpus=4", want: Hello{Protocol: 1, AgentVersion: "dev"}},
		{name: "empty", wantErr: errdefs.ErrInvalidArgument},
		{name: "other magic", in: "SSH-2.0 x", wantErr: errdefs.ErrInvalidArgument},
		{name: "no version", in: "cloister/1", wantErr: errdefs.ErrInvalidArgument},
		{name: "empty version", in: "cloister/1  uptime_ms=1", wantErr: errdefs.ErrInvalidArgument},
		{name: "escape in version", in: "cloister/1 \x1b[2J", wantErr: errdefs.ErrInvalidArgument},
		{name: "protocol too large", in: "cloister/65536 dev", wantErr: errdefs.ErrInvalidArgument},
		{name: "negative", in: "cloister/1 dev uptime_ms=-1", wantErr: errdefs.ErrInvalidArgument},
		{name: "number too large", in: "cloister/1 dev uptime_ms=1099511627776", wantErr: errdefs.ErrInvalidArgument},
		{name: "no value", in: "cloister/1 dev uptime_ms", wantErr: errdefs.ErrInvalidArgument},
		{name: "too many fields", in: "cloister/1 dev" + strings.Repeat(" a=1", 9), wantErr: errdefs.ErrInvalidArgument},
		{name: "too long", in: "cloister/1 dev a=" + strings.Repeat("0", 256), wantErr: errdefs.ErrInvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseHello(tt.in)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("ParseHello(%q) = %v, want %v", tt.in, err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); tt.wantErr == nil && diff != "" {
				t.Errorf("ParseHello(%q): %s", tt.in, diff)
			}
		})
	}
}

func TestReadHelloLeavesTheRest(t *testing.T) {
	r := strings.NewReader("cloister/1 dev\nrest")
	if _, err := readHello(r); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "rest" || err != nil {
		t.Errorf("rest = %q, %v", rest, err)
	}
}

func TestReadHelloIsBounded(t *testing.T) {
	r := strings.NewReader(strings.Repeat("a", 1<<20))
	if _, err := readHello(r); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("readHello = %v, want %v", err, errdefs.ErrInvalidArgument)
	}
	if read := 1<<20 - r.Len(); read > maxPreamble {
		t.Errorf("read %d bytes, want at most %d", read, maxPreamble)
	}
	if _, err := readHello(strings.NewReader("cloister/1")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("readHello = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add("cloister/1 1.2.3 uptime_ms=1234 mem_used_kib=40000")
	f.Add("cloister/1 ")
	f.Add("cloister/99999 a b=c")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := ParseHello(in)
		if err != nil {
			return
		}
		again, err := ParseHello(strings.TrimSuffix(h.String(), "\n"))
		if err != nil || again != h {
			t.Errorf("ParseHello(%q) = %+v, %v; its line gives %+v", in, h, err, again)
		}
	})
}
