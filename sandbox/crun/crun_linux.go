// SPDX-License-Identifier: Apache-2.0

package crun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

// hybrid has the controllers of a host's cgroup v2 beside cgroup v1, as systemd mounts it. With any
// in it crun refuses to run.
const hybrid = "/sys/fs/cgroup/unified/cgroup.controllers"

// Find gives the path of the OCI runtime: the configured one, or the first of crun and runc in
// PATH. On a host whose cgroups are hybrid it is runc. The path is without links, as it is written
// to the record: whoever deletes a container later uses the same program. It runs as root, so one
// that another user could replace is an error.
func Find(configured string) (string, error) {
	names := []string{"crun", "runc"}
	if controllers, _ := os.ReadFile(hybrid); len(bytes.TrimSpace(controllers)) > 0 { // none: not hybrid
		names = []string{"runc"}
	}
	if configured != "" {
		names = []string{configured}
	}
	for _, name := range names {
		path, err := sys.Program(name)
		if err == nil {
			return filepath.EvalSymlinks(path)
		}
		if errors.Is(err, errdefs.ErrPermissionDenied) { // found, and not to be trusted
			return "", fmt.Errorf("OCI runtime: %w", err)
		}
	}
	return "", fmt.Errorf("OCI runtime %s: not found: install crun, or set process.runtime in the config: %w",
		strings.Join(names, " or "), os.ErrNotExist)
}

// Delete kills and removes container id below the runtime's folder root. One that does not exist is
// no error. It is the undo of a container in the record, so it may be repeated. ctx bounds the
// program, and its output is in the error.
func Delete(ctx context.Context, runtime, root, id string) error {
	if _, err := os.Stat(filepath.Join(root, id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, runtime, "--root", root, "delete", "--force", id)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s delete --force %s: %w: %s", runtime, id, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// List gives the containers that are below a runtime's folder. A folder that is not there has none.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}
