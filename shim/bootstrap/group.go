// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSpec bounds config.json; the largest seen from a real cluster is below 1 MiB.
const maxSpec = 16 << 20

// groupOf says which tasks share a daemon with this one: the first of the annotations that runc's shim groups by, or the task's own id.
// The shim sandboxer writes no config.json; then the sandbox is a group of its own.
func groupOf(bundle, id string) (string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("annotations of the spec: %w", err)
	}
	defer f.Close()
	group, err := parseGroup(io.LimitReader(f, maxSpec))
	if err != nil {
		return "", fmt.Errorf("annotations of %q: %w", f.Name(), err)
	}
	if group == "" {
		return id, nil
	}
	return group, nil
}

func parseGroup(r io.Reader) (string, error) {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(r).Decode(&spec); err != nil {
		return "", err
	}
	for _, key := range [...]string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		if group := spec.Annotations[key]; group != "" {
			return group, nil
		}
	}
	return "", nil
}
