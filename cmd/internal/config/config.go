// SPDX-License-Identifier: Apache-2.0

// Package config reads cloister's configuration: TOML in one file and a folder of files beside it.
//
// Each room owns its part and its documented zero values; here is only where the files are, that an
// unknown key is an error, and that root obeys no file or folder that somebody else may write. It
// must not know what a key means. Load, Folders and Where are safe for concurrent use.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"cloister/sandbox"
	"cloister/sys"
)

// Path is where the configuration is when the environment does not say otherwise.
const Path = "/etc/cloister/config.toml"

// Env names the variable that gives another path. Root obeys it too, but only where it leads to a
// file that root alone may write.
const Env = "CLOISTER_CONFIG"

// maxBytes bounds one file. A wrong path, as of a device or a log, must not fill memory.
const maxBytes = 1 << 20

// The folders of a host whose config names no others; sandbox.Config documents them. State is on a
// tmpfs: a record does not outlive the processes that it is about. The registry and the journal of
// labels are below root, since files keep their labels over a reboot.
const (
	DefaultState = "/run/cloister"
	DefaultRoot  = "/var/lib/cloister"
)

// Load reads the file at path, or else at Env's or Path, and then the *.toml of
// the folder config.d beside it in the order of their names; a later value
// replaces an earlier one. A file that nobody named may be missing. For root, each file
// and the folders state and root must be sys.Trusted. A wrong key or value is
// errdefs.ErrInvalidArgument, and no sandbox starts.
func Load(path string) (sandbox.Config, error) {
	c, problem, err := Folders(path)
	if err == nil {
		err = problem
	}
	return c, err
}

// Folders is Load for whoever needs only the folders. A file with a wrong key or value is a
// problem, beside which the rest of the config is returned. err is for what nobody can go on from:
// a file that cannot be read or that others may write, or a folder of that kind. The verbs that
// clean up use it, so that one wrong key does not leave leftovers.
func Folders(path string) (c sandbox.Config, problem, err error) {
	path, named := Where(path)
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "config.d", "*.toml"))
	if err != nil {
		return c, nil, err
	}
	var problems []error
	// The main file first, then the drop-ins in Glob's order, which is lexical.
	for i, name := range append([]string{path}, names...) {
		if err := sys.Trusted(name); err != nil {
			return c, nil, fmt.Errorf("config: %w", err)
		}
		err := read(name, &c)
		switch {
		// Somebody has named it, so its absence is a mistake; the usual one may be missing.
		case errors.Is(err, fs.ErrNotExist) && i == 0 && named != "":
			return c, nil, fmt.Errorf("%w: %s names this file: create it, or name another", err, named)
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errdefs.ErrInvalidArgument):
			problems = append(problems, err)
		case err != nil:
			return c, nil, err
		}
	}
	// Judged with the defaults filled in: a default folder that others may write is as bad.
	for _, folder := range []struct{ key, path string }{
		{"state", cmp.Or(c.State, DefaultState)}, {"root", cmp.Or(c.Root, DefaultRoot)},
	} {
		if err := sys.Trusted(folder.path); err != nil {
			return c, nil, fmt.Errorf("%s folder %w", folder.key, err)
		}
	}
	return c, errors.Join(problems...), nil
}

// Where gives the config's path, and who names it: empty for nobody. The order is argument,
// environment, default. The file need not exist.
func Where(path string) (file, named string) {
	if path != "" {
		return path, "the caller"
	}
	if path = os.Getenv(Env); path != "" {
		return path, Env
	}
	return Path, ""
}

// read adds a file's values to those that are there.
func read(name string, into *sandbox.Config) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return fmt.Errorf("config %q: %w", name, err)
	}
	if len(data) > maxBytes {
		return fmt.Errorf("config %q: over %d bytes: %w", name, maxBytes, errdefs.ErrInvalidArgument)
	}
	return decode(name, data, into)
}

// decode keeps what was decoded before an error, so that Folders can go on with it.
func decode(name string, data []byte, into *sandbox.Config) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case err == nil:
		if err := checkNumbers(data); err != nil {
			return fmt.Errorf("config %q: %w", name, err)
		}
		return nil
	// A misspelt key would otherwise leave its default in force without a word.
	case errors.As(err, &unknown):
		return fmt.Errorf("config %q: unknown keys:\n%s: %w", name, unknown.String(), errdefs.ErrInvalidArgument)
	case errors.As(err, &wrong):
		return fmt.Errorf("config %q: %s: %w", name, wrong.String(), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("config %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
}
