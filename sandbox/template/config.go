// SPDX-License-Identifier: Apache-2.0

package template

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Config says whether sandboxes start from saved guests. It is a section of the host's
// configuration. A template that does not fit is never an error of a start.
type Config struct {
	// Mode is auto, manual or off. auto and manual start a sandbox from a template if one fits, and
	// else cold. With auto, the shim then has the template built in the background; with manual,
	// only `cloister template build` makes one. off has all sandboxes start cold; default auto.
	Mode Mode `toml:"mode"`
}

// Mode is a value of template.mode. The zero value stands for the default, which
// sandbox/config fills in.
type Mode string

// The modes.
const (
	Off    Mode = "off"
	Manual Mode = "manual"
	Auto   Mode = "auto"
)

// Check refuses an unknown mode. The error is errdefs.ErrInvalidArgument and names the key.
func (c Config) Check() error {
	switch c.Mode {
	case "", Off, Manual, Auto:
		return nil
	}
	return fmt.Errorf("template.mode = %q: want auto, manual or off: %w", c.Mode, errdefs.ErrInvalidArgument)
}
