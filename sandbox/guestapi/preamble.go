// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Protocol is the version of the contract that this package speaks. A host refuses an agent of
// another one: an older agent would ignore a setting that it does not know, such as a sysctl that
// switches IPv6 off.
const Protocol = 3

// PortName is the name of the virtio-serial port that the agent opens.
const PortName = "io.cloister.agent"

const (
	maxPreamble  = 256
	maxVersion   = 64
	maxFields    = 8
	magic        = "cloister/"
	fieldUptime  = "uptime_ms"
	fieldInit    = "init_ms"
	fieldMemUsed = "mem_used_kib"
)

var errPreamble = fmt.Errorf("preamble of the agent: %w", errdefs.ErrInvalidArgument)

// Hello is what the agent tells about itself in its first line. All of it is what the guest claims,
// for people and measurements. Nothing is decided by it but the protocol.
type Hello struct {
	Protocol     int
	AgentVersion string
	// Uptime of the guest's kernel when the agent was ready to serve.
	Uptime time.Duration
	// InitAt is the uptime when the agent began, 0 when it did not say.
	InitAt time.Duration
	// MemUsedKiB is MemTotal - MemAvailable at Uptime.
	MemUsedKiB uint64
}

// String is the preamble line, with its newline.
func (h Hello) String() string {
	return fmt.Sprintf("%s%d %s %s=%d %s=%d %s=%d\n", magic, h.Protocol, h.AgentVersion,
		fieldUptime, h.Uptime.Milliseconds(), fieldMemUsed, h.MemUsedKiB, fieldInit, h.InitAt.Milliseconds())
}

// ParseHello reads a preamble line without its newline. Fields it does not know are passed over. An
// error is errdefs.ErrInvalidArgument, with the text cut.
func ParseHello(line string) (Hello, error) {
	if len(line) >= maxPreamble {
		return Hello{}, fmt.Errorf("%w: longer than %d bytes", errPreamble, maxPreamble)
	}
	words := strings.Split(line, " ")
	if len(words) < 2 || len(words) > 2+maxFields {
		return Hello{}, fmt.Errorf("%w: %d words", errPreamble, len(words))
	}
	number, ok := strings.CutPrefix(words[0], magic)
	if !ok {
		return Hello{}, fmt.Errorf("%w: does not start with %q", errPreamble, magic)
	}
	protocol, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return Hello{}, fmt.Errorf("%w: protocol %q", errPreamble, Text(number, maxVersion))
	}
	h := Hello{Protocol: int(protocol), AgentVersion: words[1]}
	if !isVersion(h.AgentVersion) {
		return Hello{}, fmt.Errorf("%w: version %q", errPreamble, Text(h.AgentVersion, maxVersion))
	}
	for _, w := range words[2:] {
		if err := setField(&h, w); err != nil {
			return Hello{}, err
		}
	}
	return h, nil
}

// setField reads one NAME=NUMBER.
func setField(h *Hello, word string) error {
	key, value, ok := strings.Cut(word, "=")
	// 40 bits: no time in milliseconds or size in KiB is more, and no sum overflows.
	n, err := strconv.ParseUint(value, 10, 40)
	if !ok || err != nil {
		return fmt.Errorf("%w: field %q", errPreamble, Text(word, maxVersion))
	}
	switch key {
	case fieldUptime:
		h.Uptime = time.Duration(n) * time.Millisecond
	case fieldInit:
		h.InitAt = time.Duration(n) * time.Millisecond
	case fieldMemUsed:
		h.MemUsedKiB = n
	}
	return nil
}

// isVersion takes letters, digits and a few signs alone: the version is shown to people and stands
// in logs.
func isVersion(s string) bool {
	if s == "" || len(s) > maxVersion {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("._+~-", rune(c)) {
			return false
		}
	}
	return true
}

// readHello takes the preamble from r and not a byte more: what follows it
// belongs to yamux.
func readHello(r io.Reader) (Hello, error) {
	line, err := readLine(r, maxPreamble)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Hello{}, fmt.Errorf("read preamble of the agent: %w", err)
	}
	return ParseHello(line)
}
