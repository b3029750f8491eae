// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text makes a string of the guest fit for logs and errors: valid UTF-8, one line, no control
// characters, at most limit bytes. Escape sequences of a guest would otherwise reach a terminal
// that shows a log.
func Text(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
	if cut {
		s += "..."
	}
	return s
}
