// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/sandbox/guestapi"
)

// TestDebugOutput has guests say what they should, and what they should not.
func TestDebugOutput(t *testing.T) {
	for _, test := range []struct {
		name, sent, out string
		want            error
	}{
		{"all well", "o\x00\x02hix\x00\x01\x00", "hi", nil},
		{"exit status", "x\x00\x01\x07", "", exitError(7)},
		{"escape sequences", "o\x00\x05\x1b[2Jx", "^[[2Jx", errdefs.ErrUnavailable},
		{"an error", "e\x00\x05\x1bgone", "", errdefs.ErrUnknown},
		{"hung up", "", "", errdefs.ErrUnavailable},
		{"too long", "o\xff\xff" + string(make([]byte, 1<<16)), "", guestapi.ErrProtocol},
		{"the host's own kind", "i\x00\x01x", "", guestapi.ErrProtocol},
	} {
		host, guest := net.Pipe()
		go func() {
			_, _ = guest.Write([]byte(test.sent))
			_ = guest.Close()
		}()
		var out bytes.Buffer
		d := debugger{conn: host, out: visible{&out}}
		if err := d.output(); !errors.Is(err, test.want) || out.String() != test.out {
			t.Errorf("%s: output = %v, printed %q, want %v, %q", test.name, err, out.String(), test.want, test.out)
		}
		_ = host.Close()
	}
}
