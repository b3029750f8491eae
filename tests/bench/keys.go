// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
)

// Merge puts keys into $BENCH_JSON beside those that are there, and does nothing where no file is
// named.
func Merge(keys map[string]any) error {
	name := os.Getenv("BENCH_JSON")
	if name == "" {
		return nil
	}
	all := map[string]any{}
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	maps.Copy(all, keys)
	if data, err = json.MarshalIndent(all, "", " "); err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
