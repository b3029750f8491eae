// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"strings"
)

// mountError is an error about a mount in the user's words.
type mountError struct {
	text string
	err  error
}

func (e *mountError) Error() string { return e.text }
func (e *mountError) Unwrap() error { return e.err }

// ExplainMount gives an error of the guest's runtime about a bind mount with the mount's source on
// the host, where the guest has another path for it. That path would tell the user nothing. Other
// errors stay as they are. The class of the error stays too. The package is linked into small
// programs, and so does without regular expressions.
func (w *Workload) ExplainMount(err error) error {
	if err == nil {
		return nil
	}
	// crun's versions quote names in different ways, and give the destination with or without its
	// first slash.
	text := strings.ReplaceAll(strings.ReplaceAll(err.Error(), "`", "'"), "' to '/", "' to '")
	for _, m := range w.Mounts {
		before, rest, ok := strings.Cut(text, "' to '"+strings.TrimPrefix(m.Destination, "/")+"'")
		start := strings.LastIndex(before, "mount '")
		if ok && start >= 0 && m.Kind == BindMount {
			return &mountError{fmt.Sprintf("%smount %q on %q%s", before[:start], m.Source, m.Destination, rest), err}
		}
	}
	return err
}
