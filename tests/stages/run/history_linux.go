// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/tests/stages"
)

// historyFile is the path of the file that holds the last runs.
type historyFile string

// read returns the last runs; none where there is no file.
func (f historyFile) read() (stages.History, error) {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var h stages.History
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return h, nil
}

// update changes the file while it holds a lock, and returns what is in it then. A file that cannot
// be read is replaced.
func (f historyFile) update(change func(stages.History) stages.History) (stages.History, error) {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(string(f)+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	past, _ := f.read()
	past = change(past)
	data, err := json.MarshalIndent(past, "", "  ")
	if err != nil {
		return past, err
	}
	if err := os.WriteFile(string(f)+".new", append(data, '\n'), 0o644); err != nil {
		return past, err
	}
	return past, os.Rename(string(f)+".new", string(f))
}
