// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"regexp"
	"strings"
)

// crunMount is what crun says of a mount that failed: its source and its destination below the root file system.
var crunMount = regexp.MustCompile("mount [`']([^`']+)[`'] to [`']/?([^`']*)[`']")

// mountError is an error about a mount in the user's words.
type mountError struct {
	text string
	err  error
}

func (e *mountError) Error() string { return e.text }
func (e *mountError) Unwrap() error { return e.err }

// ExplainMount gives an error of the guest's runtime about a bind mount with the mount's source on the host, where the
// guest has another path for it. Other errors stay as they are. The class of the error stays too.
func (w *Workload) ExplainMount(err error) error {
	if err == nil {
		return nil
	}
	found := crunMount.FindStringSubmatchIndex(err.Error())
	if found == nil {
		return err
	}
	text := err.Error()
	destination := "/" + strings.TrimSuffix(text[found[4]:found[5]], "/")
	for _, m := range w.Mounts {
		if m.Kind == BindMount && m.Destination == destination {
			return &mountError{text[:found[0]] + fmt.Sprintf("mount %q on %q", m.Source, destination) + text[found[1]:], err}
		}
	}
	return err
}
