// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// modulesList names one file per line, in the order in which they load.
const modulesList = "/lib/cloister/modules"

// loadModules inserts the image's modules, if it has any, and then deletes
// their files, which are the guest's memory.
func loadModules(ctx context.Context) error {
	list, err := os.ReadFile(modulesList)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	for _, path := range strings.Fields(string(list)) {
		if err := loadModule(path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			log.G(ctx).WithError(err).Warn("remove module")
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}
