// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrKeepsRoot is wrapped when QEMU keeps the host's root directory and the configuration
// allows it.
var ErrKeepsRoot = errors.New("the root directory cannot be replaced")

// RootError says what an error of Root.Replace means for the start. pivot_root(2) gives EINVAL on a
// host that runs from its initial ramdisk: nothing can replace that root. The start fails then,
// unless the part "root" is disabled; in that case the error is ErrKeepsRoot. Other errors are
// passed on as they are.
func (c Config) RootError(err error) error {
	switch {
	case !errors.Is(err, unix.EINVAL):
		return err
	case c.Has(RootDir):
		return fmt.Errorf("QEMU would keep the host's root directory: %w: run the host from a mounted file system, or name "+
			"%q in jail.disable", err, RootDir)
	default:
		return fmt.Errorf("%w: %w", ErrKeepsRoot, err)
	}
}
