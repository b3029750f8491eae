// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxSpec bounds config.json; the largest seen from a real cluster is below 1 MiB.
const maxSpec = 16 << 20

// bundle is an engine's config.json, whatever is in it: the shim says what cannot be honoured.
type bundle map[string]any

func readBundle(folder string) (bundle, error) {
	f, err := os.Open(filepath.Join(folder, "config.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSpec {
		return nil, fmt.Errorf("%q: over %d bytes", f.Name(), maxSpec)
	}
	b, err := parseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", f.Name(), err)
	}
	return b, nil
}

func parseBundle(data []byte) (bundle, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // numbers stay as they are written
	var b bundle
	if err := d.Decode(&b); err != nil {
		return nil, err
	}
	return b, nil
}

func (b bundle) object(key string) bundle {
	o, _ := b[key].(map[string]any)
	return o
}

func (b bundle) list(key string) []any {
	l, _ := b[key].([]any)
	return l
}

func (b bundle) text(key string) string {
	s, _ := b[key].(string)
	return s
}

// terminal is process.terminal.
func (b bundle) terminal() bool {
	t, _ := b.object("process")["terminal"].(bool)
	return t
}

func (b bundle) annotations() map[string]string {
	out := map[string]string{}
	for k, v := range b.object("annotations") {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// move makes b independent of the engine's folder and of the pids that engines know. Paths become
// absolute, and a namespace of a container's proxy becomes that of its machine: machineOf gives
// the machine's pid, 0 for a process that is no proxy.
func (b bundle) move(folder string, machineOf func(pid int) int) {
	if root := b.object("root"); root != nil {
		root["path"] = absolute(folder, root.text("path"))
	}
	for _, m := range b.list("mounts") {
		mount, _ := m.(map[string]any)
		if s, _ := mount["source"].(string); s != "" && bind(mount) {
			mount["source"] = absolute(folder, s)
		}
	}
	for _, n := range b.object("linux").list("namespaces") {
		namespace, _ := n.(map[string]any)
		path, _ := namespace["path"].(string)
		rest, ok := strings.CutPrefix(path, "/proc/")
		digits, rest, _ := strings.Cut(rest, "/")
		pid, err := strconv.Atoi(digits)
		if !ok || err != nil {
			continue
		}
		if machine := machineOf(pid); machine != 0 {
			namespace["path"] = fmt.Sprintf("/proc/%d/%s", machine, rest)
		}
	}
}

func bind(mount bundle) bool {
	options := mount.list("options")
	return mount.text("type") == "bind" || slices.Contains(options, any("bind")) || slices.Contains(options, any("rbind"))
}

// encode is the JSON of it.
func (b bundle) encode() ([]byte, error) { return json.Marshal(b) }

func absolute(folder, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}
