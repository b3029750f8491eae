// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Program gives the entries of a program of the host's and of the libraries that it names, each
// where it is on the host.
func Program(ctx context.Context, name string) ([]Entry, error) {
	out, err := exec.CommandContext(ctx, "ldd", name).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", name, err)
	}
	files := []string{name}
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	var entries []Entry
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Name: strings.TrimPrefix(file, "/"), Mode: 0o755, Data: data})
	}
	return entries, nil
}
