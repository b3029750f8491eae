// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// modulesList names one file per line, in the order in which they load.
	// Files whose name ends in .gz are compressed.
	modulesList = "/lib/cloister/modules"
	// lateList is for what a container may turn out to need. Loaded at boot, they would cost every
	// guest memory and time, also one that needs none.
	lateList = "/lib/cloister/modules.late"

	modprobePath = "/proc/sys/kernel/modprobe"
	agentPath    = "/init"
	maxModule    = 64 << 20
)

// loadModules inserts the image's modules, if it has any. An early module that does not load is an
// error of the boot: without its drivers the guest finds neither the port nor its disks.
func loadModules() error {
	errs, err := loadList(modulesList)
	if err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if _, err := os.Stat(lateList); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// A kernel without modules has no such file, and never asks.
	if err := os.WriteFile(modprobePath, []byte(agentPath), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("become the kernel's modprobe: %w", err)
	}
	return nil
}

// IsModprobe tells whether the kernel has started the agent to load a module:
// with "-q", "--" and a name. main checks it before the pid: the kernel runs its modprobe as an
// ordinary process.
func IsModprobe(args []string) bool { return len(args) == 4 && args[1] == "-q" && args[2] == "--" }

// LoadLate loads the late modules that the kernel means by a name, and what they need: no others,
// since any process of a container can have the kernel ask, by a socket of a family that it lacks.
// A name that no late module has loads nothing, and is an error, as modprobe's. It runs in the
// first root, where there is nothing but the image; the kernel may have several run at once.
func LoadLate(name string) error {
	text, err := os.ReadFile(lateList)
	if err != nil {
		return fmt.Errorf("read list of modules: %w", err)
	}
	files := wanted(parseLate(string(text)), name)
	if len(files) == 0 {
		return fmt.Errorf("module %.64q: there is none in the image", name)
	}
	var errs []error
	for _, file := range files {
		err := loadModule(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // loaded before, and removed
		}
		// The file is the guest's memory.
		if err := errors.Join(err, os.Remove(file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("load module %s: %w", file, err))
		}
	}
	return errors.Join(errs...)
}

// loadList gives the modules' errors apart from its own. It deletes the files
// as it goes: they are the guest's memory.
func loadList(name string) ([]error, error) {
	list, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read list of modules: %w", err)
	}
	var errs []error
	for path := range strings.FieldsSeq(string(list)) {
		if err := errors.Join(loadModule(path), os.Remove(path)); err != nil {
			errs = append(errs, fmt.Errorf("load module %s: %w", path, err))
		}
	}
	return errs, nil
}

// loadModule inserts one file. EEXIST means that it is loaded or built in, and is no error.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if strings.HasSuffix(path, ".gz") {
		err = loadCompressed(f)
	} else {
		err = unix.FinitModule(int(f.Fd()), "", 0)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// loadCompressed inserts a .gz file. It decompresses here because finit_module(2) takes compressed
// files only where the kernel was built with that. maxModule bounds what a damaged image can take
// of the guest's memory; the kernel refuses the rest.
func loadCompressed(f *os.File) error {
	r, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	image, err := io.ReadAll(io.LimitReader(r, maxModule))
	if err != nil {
		return err
	}
	return unix.InitModule(image, "")
}
