// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"cloister/sandbox/guestapi"
)

// TestDebugArguments: the words of a command reach it as they are. The shell is this host's.
func TestDebugArguments(t *testing.T) {
	words := []string{"printf", "[%s]", "a b", "*", "$HOME", "-l", "'", ""}
	args := shellArgs(words)
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil || string(out) != "[a b][*][$HOME][-l]['][]" {
		t.Errorf("%q printed %q, %v", words, out, err)
	}
	c := runDebug(stdio{io.Discard, io.Discard})
	var got []string
	c.RunE = func(_ *cobra.Command, args []string) error { got = args; return nil }
	c.SetArgs([]string{"one", "ls", "-l", "--config", "x"})
	if err := c.Execute(); err != nil || !slices.Equal(got, []string{"one", "ls", "-l", "--config", "x"}) {
		t.Errorf("arguments %q, %v", got, err)
	}
}

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
