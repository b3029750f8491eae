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
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxSpec bounds config.json; the largest seen from a real cluster is below 1 MiB.
const maxSpec = 16 << 20

// membership is what a spec says of the company that its task keeps.
type membership struct {
	group  string // of the annotations that runc's shim groups by
	joined int    // the process whose network it shares; 0 for none
}

// groupOf says which tasks share a daemon with this one: those of the same group; the owner of the
// process whose network it shares, which owner tells; else the task alone. The shim sandboxer
// writes no config.json; then the sandbox is a group of its own. It follows one owner and no
// further: the owner's own group is what its first task's config.json says.
func groupOf(bundle, id string, owner func(pid int) (id, bundle string, err error)) (string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("group of the task: %w", err)
	}
	defer f.Close()
	m, err := parseMembership(io.LimitReader(f, maxSpec))
	if err != nil {
		return "", fmt.Errorf("group of the task: %q: %w", f.Name(), err)
	}
	switch {
	case m.group != "":
		return m.group, nil
	case m.joined == 0 || owner == nil:
		return id, nil
	}
	id2, bundle2, err := owner(m.joined)
	if errdefs.IsNotFound(err) {
		return id, nil // Create says what is wrong with that
	}
	if err != nil {
		return "", err
	}
	return groupOf(bundle2, id2, nil)
}

// parseMembership reads no more of config.json than it needs: errors elsewhere in it are reported
// by Create, with the name of the field. What the engine says of a pod comes before what a pod's
// author may have written: CRI-O passes all annotations of a pod on, with those of other engines.
// A group that names another pod would lead the container to that pod's daemon.
func parseMembership(r io.Reader) (membership, error) {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	var m membership
	if err := json.NewDecoder(r).Decode(&spec); err != nil {
		return m, err
	}
	keys := []string{"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.containerd.runc.v2.group"}
	if spec.Annotations["io.kubernetes.cri-o.ContainerType"] != "" {
		keys[0], keys[1] = keys[1], keys[0]
	}
	for _, key := range keys {
		if m.group == "" {
			m.group = spec.Annotations[key]
		}
	}
	for _, ns := range spec.Linux.Namespaces {
		if pid, ok := strings.CutPrefix(ns.Path, "/proc/"); ok && ns.Type == "network" {
			// Anything but a number is another kind of path: no pid of ours.
			m.joined, _ = strconv.Atoi(strings.TrimSuffix(pid, "/ns/net"))
		}
	}
	return m, nil
}
