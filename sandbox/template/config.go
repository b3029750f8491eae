// SPDX-License-Identifier: Apache-2.0

package template

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Config says whether sandboxes start from saved guests. It is a section of the host's
// configuration. A template that does not fit is never an error of a start.
type Config struct {
	// Mode is auto or off. auto starts a sandbox from a template of `cloister template build` if
	// one fits, and else cold; default off.
	Mode Mode `toml:"mode"`
}

// Mode is a value of template.mode. The zero value is Off.
type Mode string

// The modes.
const (
	Off  Mode = "off"
	Auto Mode = "auto"
)

// Check refuses an unknown mode. The error is errdefs.ErrInvalidArgument and names the key.
func (c Config) Check() error {
	switch c.Mode {
	case "", Off, Auto:
		return nil
	}
	return fmt.Errorf("template.mode = %q: want auto or off: %w", c.Mode, errdefs.ErrInvalidArgument)
}
