// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// maxValueBytes bounds what of a foreign value is repeated in an error.
const maxValueBytes = 96

// maxProblems bounds how many problems one error lists; more are counted.
const maxProblems = 32

// Problem is one field that cannot be honoured, or (in Workload.Ignored) one
// that means nothing here.
type Problem struct {
	Field string // JSON path, such as linux.resources.cpu.realtimePeriod
	Value string // the value as found, shortened
	Text  string // why, and what to do
}

// String gives field, value and text on one line.
func (p Problem) String() string {
	if p.Value == "" {
		return p.Field + ": " + p.Text
	}
	return p.Field + " = " + p.Value + ": " + p.Text
}

// UnsupportedError lists every field of a document that cannot be honoured. It is of the class
// errdefs.ErrInvalidArgument: the same document will fail again.
type UnsupportedError struct {
	Problems []Problem
}

// Error lists the problems, separated by semicolons.
func (e *UnsupportedError) Error() string {
	var b strings.Builder
	b.WriteString("configuration cannot be honoured: ")
	for i, p := range e.Problems {
		if i == maxProblems {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Unwrap gives the error's class.
func (e *UnsupportedError) Unwrap() error { return errdefs.ErrInvalidArgument }

// problems collects what a check finds.
type problems struct {
	refused []Problem
	ignored []Problem
}

// refuse notes a field that cannot be honoured. text follows field and value in the error, so it
// begins with a verb, and ends with what to do.
func (p *problems) refuse(field string, value any, text string) {
	p.refused = append(p.refused, Problem{field, shorten(value), text})
}

// ignore notes a field that has no meaning here and whose absence changes nothing for the workload.
func (p *problems) ignore(field string, value any, text string) {
	p.ignored = append(p.ignored, Problem{field, shorten(value), text})
}

// err is nil or an UnsupportedError; never a typed nil.
func (p *problems) err() error {
	if len(p.refused) == 0 {
		return nil
	}
	return &UnsupportedError{Problems: p.refused}
}

// shorten prints a foreign value on one bounded line.
func shorten(v any) string {
	var s string
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		s = fmt.Sprintf("%q", v)
	case []string:
		s = fmt.Sprintf("%q", v[:min(len(v), 8)])
	default:
		s = fmt.Sprintf("%v", v)
	}
	if len(s) > maxValueBytes {
		// The cut may be inside of a character.
		s = strings.ToValidUTF8(s[:maxValueBytes], "") + "..."
	}
	return s
}
