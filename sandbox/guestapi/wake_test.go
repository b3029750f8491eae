// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWakeRoundTrip(t *testing.T) {
	for _, keep := range []bool{false, true} {
		wakeRoundTrip(t, Wake{TimeUnixNano: 1_764_390_000_123_456_789, KeepMemory: keep})
	}
}

func wakeRoundTrip(t *testing.T, want Wake) {
	t.Helper()
	for i := range want.Seed {
		want.Seed[i] = byte(i * 7)
	}
	wire := strings.NewReader(want.String() + "rest")
	got, err := ReadWake(wire)
	if err != nil || got != want {
		t.Errorf("ReadWake(%q) = %v, %v, want %v", want.String(), got, err, want)
	}
	if rest, _ := io.ReadAll(wire); string(rest) != "rest" {
		t.Errorf("ReadWake left %q on the wire, want the bytes behind the line", rest)
	}
}

func TestParseWakeRefuses(t *testing.T) {
	good := strings.TrimSuffix(Wake{TimeUnixNano: 1}.String(), "\n")
	if _, err := ParseWake(good); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"empty":              "",
		"a hello":            strings.TrimSuffix(Hello{Protocol: Protocol, AgentVersion: "1"}.String(), "\n"),
		"another protocol":   strings.Replace(good, "wake/", "wake/9", 1),
		"no time":            strings.Replace(good, " 1 ", "  ", 1),
		"a time before 1970": strings.Replace(good, " 1 ", " -1 ", 1),
		"a short seed":       good[:len(good)-2],
		"a long seed":        good + "00",
		"no hexadecimal":     good[:len(good)-1] + "g",
		"a fourth word":      good + " x",
	} {
		if w, err := ParseWake(line); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: ParseWake(%q) = %v, %v, want class %v", name, line, w, err, errdefs.ErrInvalidArgument)
		}
	}
	if _, err := ReadWake(strings.NewReader(strings.Repeat("x", 4096))); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("ReadWake of an endless line = %v, want class %v", err, errdefs.ErrInvalidArgument)
	}
}

func TestIsTemplate(t *testing.T) {
	for line, want := range map[string]bool{
		"quiet cloister.template panic=-1\n": true, "quiet\n": false, "cloister.template=1": false, "x.cloister.template": false,
	} {
		if got := IsTemplate(line); got != want {
			t.Errorf("IsTemplate(%q) = %t, want %t", line, got, want)
		}
	}
}
