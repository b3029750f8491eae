// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cloister/cmd/internal/engines"
	"cloister/labels/lsm"
)

// writeChange puts the new text in the file's place, as a whole. Mode, owner and label stay; a link
// stays a link. A crash leaves the old file or the new one, and at worst a temporary file beside
// it. The engine may read at any moment.
func writeChange(c engines.Change) error {
	// An empty text means that nothing is left in the file.
	if len(c.After) == 0 && !c.New {
		return removeConfig(c)
	}
	// A rename over a link would replace the link, and the file that it leads to would stay as it
	// was.
	name := c.Path
	if !c.New {
		target, err := filepath.EvalSymlinks(name)
		if err != nil {
			return err
		}
		name = target
	} else if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// In the same folder, since a rename does not cross file systems.
	f, err := os.CreateTemp(filepath.Dir(name), ".cloister-*")
	if err != nil {
		return err
	}
	_, err = f.Write(c.After)
	// Mode, owner and label before the rename: afterwards the engine could find a file that it may
	// not read.
	err = errors.Join(err, likeOld(f, name), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		// The old file is still there; only the temporary one goes.
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// removeConfig empties a file that somebody else made, and removes one that is cloister's.
func removeConfig(c engines.Change) error {
	if base := filepath.Base(c.Path); base == "cloister.toml" || base == engines.DropIn {
		return os.Remove(c.Path)
	}
	return os.Truncate(c.Path, 0)
}

// likeOld gives f the mode, owner and label of the file whose place it takes. A new file is for
// everybody to read, as engines' configs are.
func likeOld(f *os.File, name string) error {
	old, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f.Chmod(0o644)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	st, err := old.Stat()
	if err != nil {
		return err
	}
	if err := f.Chmod(st.Mode().Perm()); err != nil {
		return err
	}
	if sys, is := st.Sys().(*syscall.Stat_t); is {
		if err := f.Chown(int(sys.Uid), int(sys.Gid)); err != nil {
			return err
		}
	}
	// Raw, since a label that this host's policy does not know must be kept too.
	label, err := lsm.RawFileLabel(old)
	if err != nil || label == "" {
		return nil // it has none, or its file system takes none
	}
	if err := lsm.SetRawFileLabel(f, label); err != nil {
		return fmt.Errorf("label of the new file: %w", err)
	}
	return nil
}
