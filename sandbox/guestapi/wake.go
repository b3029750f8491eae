// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// TemplateParameter on the kernel's line asks the agent to become a template: it says hello, and
// then waits for a Wake instead of serving. The guest is saved meanwhile.
const TemplateParameter = "cloister.template"

// WakeSeedBytes is the size of a Wake's seed.
const WakeSeedBytes = 64

const (
	wakeMagic = "cloister-wake/"
	maxWake   = 256
)

var errWake = fmt.Errorf("wake message: %w", errdefs.ErrInvalidArgument)

// Wake is the one line that the host sends to a guest from a template. The agent seeds the guest's
// random pool with it, sets the clock, starts itself anew and says a second hello, from which on
// the contract is that of any guest. The seed comes from the host's random pool and is used once.
// Without it all guests of a template would draw the same keys.
type Wake struct {
	TimeUnixNano int64
	Seed         [WakeSeedBytes]byte
	// KeepMemory has the guest give no memory back: the host could not take it.
	KeepMemory bool
}

// keepMemory is the word for KeepMemory, which is left out otherwise.
const keepMemory = "keep-memory"

// String is the line, with its newline.
func (w Wake) String() string {
	line := fmt.Sprintf("%s%d %d %x", wakeMagic, Protocol, w.TimeUnixNano, w.Seed)
	if w.KeepMemory {
		line += " " + keepMemory
	}
	return line + "\n"
}

// ParseWake reads the line without its newline. A version that is not this package's is refused:
// the saved agent is of another build then.
func ParseWake(line string) (Wake, error) {
	var w Wake
	line, w.KeepMemory = strings.CutSuffix(line, " "+keepMemory)
	words := strings.Split(line, " ")
	if len(words) != 3 || words[0] != wakeMagic+strconv.Itoa(Protocol) {
		return w, fmt.Errorf("%w: want %s%d TIME SEED [%s]", errWake, wakeMagic, Protocol, keepMemory)
	}
	var err error
	if w.TimeUnixNano, err = strconv.ParseInt(words[1], 10, 64); err != nil || w.TimeUnixNano <= 0 {
		return w, fmt.Errorf("%w: time %q", errWake, Text(words[1], maxVersion))
	}
	if len(words[2]) != hex.EncodedLen(WakeSeedBytes) {
		return w, fmt.Errorf("%w: a seed of %d digits", errWake, len(words[2]))
	}
	if _, err := hex.Decode(w.Seed[:], []byte(words[2])); err != nil {
		return w, fmt.Errorf("%w: seed is not hexadecimal", errWake)
	}
	return w, nil
}

// ReadWake takes the line from r and not a byte more: what follows belongs to the next program.
func ReadWake(r io.Reader) (Wake, error) {
	line, err := readLine(r, maxWake)
	if err != nil {
		return Wake{}, fmt.Errorf("read wake message: %w", err)
	}
	return ParseWake(line)
}

// readLine reads a line of less than most bytes, without its newline, byte by byte. Byte by byte,
// since a buffer would take what follows the line from the next reader.
func readLine(r io.Reader, most int) (string, error) {
	line := make([]byte, 0, most)
	for len(line) < most {
		line = append(line, 0)
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return "", err
		}
		if bytes.HasSuffix(line, []byte("\n")) {
			return string(line[:len(line)-1]), nil
		}
	}
	return "", fmt.Errorf("no newline in %d bytes: %w", most, errdefs.ErrInvalidArgument)
}

// IsTemplate finds TemplateParameter on a kernel's line.
func IsTemplate(line string) bool { return slices.Contains(strings.Fields(line), TemplateParameter) }

// AwaitHello reads the hello of a guest that becomes a template. conn stays the caller's.
func AwaitHello(ctx context.Context, conn net.Conn) (Hello, error) { return greet(ctx, conn) }

// SendWake wakes a guest that was saved, with the time of now. Its hello follows.
func SendWake(ctx context.Context, conn net.Conn, w Wake) error {
	w.TimeUnixNano = time.Now().UnixNano()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetWriteDeadline(deadline); err != nil {
			return fmt.Errorf("wake the guest: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) }) // the write below returns
	_, err := io.WriteString(conn, w.String())
	if !stop() {
		return fmt.Errorf("wake the guest: %w", context.Cause(ctx))
	}
	if err == nil {
		err = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		return fmt.Errorf("wake the guest: %w", err)
	}
	return nil
}
