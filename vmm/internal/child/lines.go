// SPDX-License-Identifier: Apache-2.0

package child

import (
	"strings"
	"unicode/utf8"
)

// LastLines returns the last lines of a log that others wrote, fit for an error: at most lines of
// them and limit bytes, of printable ASCII. A guest chooses what is in its log, and a terminal
// obeys escape sequences.
func LastLines(log []byte, lines, limit int) string {
	if len(log) > limit {
		log = log[len(log)-limit:]
	}
	var clean strings.Builder
	for len(log) > 0 {
		if n := escape(log); n > 0 {
			log = log[n:]
			continue
		}
		c, size := utf8.DecodeRune(log)
		log = log[size:]
		switch {
		case c == '\n', c >= ' ' && c < 0x7f:
			clean.WriteRune(c)
		case c == '\t':
			clean.WriteByte(' ')
		case c == '\r':
		default:
			clean.WriteByte('?')
		}
	}
	all := strings.Split(strings.Trim(clean.String(), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// escape returns the length of the terminal control sequence b begins with, or 0:
// ESC [ parameters final byte, or ESC and one byte (ECMA-48, 5.4).
func escape(b []byte) int {
	if b[0] != 0x1b {
		return 0
	}
	if len(b) < 2 || b[1] != '[' {
		return min(2, len(b))
	}
	n := 2
	for n < len(b) && b[n] >= 0x20 && b[n] <= 0x3f {
		n++
	}
	return min(n+1, len(b))
}
