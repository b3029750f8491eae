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

// maxSpec bounds config.json; the largest seen from a real cluster is below 1 MiB. The file comes
// from an engine, but a pod's author chooses most of it: the bound keeps a huge one from filling
// the host's memory.
const maxSpec = 16 << 20

// bundle is an engine's config.json, whatever is in it: the shim says what cannot be honoured. It
// is a map and not specs.Spec: a field that this program does not know must reach the shim, which
// refuses it by name; a struct would drop it without a word.
type bundle map[string]any

// readBundle reads config.json of a bundle. The error has the file's name, since engines show it as
// it is.
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

// parseBundle decodes any JSON object.
func parseBundle(data []byte) (bundle, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	// A number in a float64 would change from 2^53 up, as some limits of memory are.
	d.UseNumber() // numbers stay as they are written
	var b bundle
	if err := d.Decode(&b); err != nil {
		return nil, err
	}
	return b, nil
}

// object is the object under a key; nil, of which everything may be asked too, where there is none
// or something else. The shim says what is wrong with a type.
func (b bundle) object(key string) bundle {
	o, _ := b[key].(map[string]any)
	return o
}

// list is the list under a key, empty where there is none.
func (b bundle) list(key string) []any {
	l, _ := b[key].([]any)
	return l
}

// text is the string under a key, empty where there is none.
func (b bundle) text(key string) string {
	s, _ := b[key].(string)
	return s
}

// terminal is process.terminal. The command line needs it before the shim reads the bundle: a
// terminal is made here.
func (b bundle) terminal() bool {
	t, _ := b.object("process")["terminal"].(bool)
	return t
}

// annotations are the strings among the annotations, for the record; others are invalid, and the
// shim says so.
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
// the machine's pid, 0 for a process that is no proxy. The daemon reads the bundle in another
// folder and may outlive the engine's call. And a pid that an engine knows is a proxy's, whose
// namespaces are not those of the guest's machine: the daemon of the other container would not be
// found by it.
func (b bundle) move(folder string, machineOf func(pid int) int) {
	if root := b.object("root"); root != nil {
		root["path"] = absolute(folder, root.text("path"))
	}
	// Only binds: the source of a tmpfs or proc is a word.
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
		// A path that is no process's is left alone, as one that CRI-O or netns makes in a file.
		if !ok || err != nil {
			continue
		}
		if machine := machineOf(pid); machine != 0 {
			namespace["path"] = fmt.Sprintf("/proc/%d/%s", machine, rest)
		}
	}
}

// bind tells whether a mount's source is a path. runtime-spec allows the type or an option to say
// it.
func bind(mount bundle) bool {
	options := mount.list("options")
	return mount.text("type") == "bind" || slices.Contains(options, any("bind")) || slices.Contains(options, any("rbind"))
}

// encode is the JSON of it. The order of keys is Go's, not the engine's; nothing depends on it.
func (b bundle) encode() ([]byte, error) { return json.Marshal(b) }

// absolute leaves an empty path empty: it means that there is none.
func absolute(folder, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}
