// SPDX-License-Identifier: Apache-2.0

// Package config reads cloister's configuration: TOML in one file and a folder
// of files beside it.
//
// Each room owns its part and its documented zero values; here is only where the
// files are and that an unknown key is an error. Load may be called at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"cloister/sandbox"
)

// Version is the release, set by the linker.
var Version = "dev" //nolint:gochecknoglobals // -ldflags -X needs a variable

// Path is where the configuration is when the environment does not say otherwise.
const Path = "/etc/cloister/config.toml"

// Env names the variable that gives another path.
const Env = "CLOISTER_CONFIG"

// maxBytes bounds one file.
const maxBytes = 1 << 20

// Load reads the file at path, or else at Env's or Path, and then the *.toml of
// the folder config.d beside it in the order of their names; a later value
// replaces an earlier one. A file that nobody named may be missing.
func Load(path string) (sandbox.Config, error) {
	var c sandbox.Config
	named := true
	if path == "" {
		path, named = os.LookupEnv(Env)
	}
	if path == "" {
		path, named = Path, false
	}
	if err := read(path, &c); err != nil && (named || !errors.Is(err, fs.ErrNotExist)) {
		return c, err
	}
	more, err := filepath.Glob(filepath.Join(filepath.Dir(path), "config.d", "*.toml"))
	if err != nil {
		return c, err
	}
	for _, name := range more {
		if err := read(name, &c); err != nil {
			return c, err
		}
	}
	return c, nil
}

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

func decode(name string, data []byte, into *sandbox.Config) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return fmt.Errorf("config %q: unknown keys:\n%s: %w", name, unknown.String(), errdefs.ErrInvalidArgument)
	case errors.As(err, &wrong):
		return fmt.Errorf("config %q: %s: %w", name, wrong.String(), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("config %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
}
