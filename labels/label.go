// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"fmt"
	"strings"
)

// maxText bounds what is parsed: the kernel takes a context of at most a page.
const maxText = 4096

// Label is a security context of four fields, in the raw form. The zero value means no label; it is
// never written to the kernel, where empty text would take a label back.
type Label struct {
	User, Role, Type string
	Range            Range
}

// Parse reads "user:role:type:range". A context without its fourth field is refused: without a
// level there is nothing that keeps two sandboxes apart.
func Parse(text string) (Label, error) {
	if len(text) > maxText {
		return Label{}, fmt.Errorf("label of %d bytes: at most %d are read", len(text), maxText)
	}
	parts := strings.SplitN(text, ":", 4)
	if len(parts) != 4 {
		return Label{}, fmt.Errorf("label %q: want user:role:type:level", clip(text))
	}
	for i, name := range []string{"user", "role", "type"} {
		if !identifier(parts[i]) {
			return Label{}, fmt.Errorf("label %q: %s %q is not a policy name", clip(text), name, clip(parts[i]))
		}
	}
	r, err := ParseRange(parts[3])
	if err != nil {
		return Label{}, fmt.Errorf("label %q: %w", clip(text), err)
	}
	return Label{User: parts[0], Role: parts[1], Type: parts[2], Range: r}, nil
}

// String writes the label as the kernel does, and nothing for the zero value.
func (l Label) String() string {
	if l == (Label{}) {
		return ""
	}
	return l.User + ":" + l.Role + ":" + l.Type + ":" + l.Range.String()
}

// IsZero tells that there is no label.
func (l Label) IsZero() bool { return l == Label{} }

// WithType is l with its type replaced.
func (l Label) WithType(t string) Label {
	l.Type = t
	return l
}

// WithLevel is l at one level.
func (l Label) WithLevel(level Level) Label {
	l.Range = At(level)
	return l
}

// MarshalText writes the label as String does.
func (l Label) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what Parse reads; empty text is the zero value.
func (l *Label) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*l = Label{}
		return nil
	}
	*l, err = Parse(string(text))
	return err
}

// identifier accepts the names a policy can have, and with it nothing that would end a mount option
// or a line.
func identifier(text string) bool {
	if text == "" || len(text) > 256 {
		return false
	}
	for i, c := range []byte(text) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		inner := c >= '0' && c <= '9' || c == '.' || c == '-'
		if !letter && (i == 0 || !inner) {
			return false
		}
	}
	return true
}
