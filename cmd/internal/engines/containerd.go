// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Marks around what is cloister's in a file of TOML. The whole lines are compared, so a block that
// somebody has changed inside is still found by them.
const (
	beginMark = "# BEGIN cloister: written by `cloister install containerd`, taken away by the same with --remove\n"
	endMark   = "# END cloister\n"
)

// Plugins of containerd that have the table of runtimes, by the version of its configuration.
// containerd 2 moved the runtimes into a plugin of their own.
const (
	pluginV2 = "io.containerd.grpc.v1.cri"
	pluginV3 = "io.containerd.cri.v1.runtime"
)

// Containerd is what is known of an installation of containerd. It is a value: nothing is read but
// by Imported.
type Containerd struct {
	// Path and Text are the main file's; Missing when there is none.
	Path    string
	Text    []byte
	Missing bool
	// Version is of the configuration a new file gets: 2 for containerd 1, 3 for containerd 2 (2.4
	// has 4 too, and takes 3).
	Version int
	// Imported gives the files that an import pattern matches now, with their text.
	Imported func(pattern string) (map[string][]byte, error)
	// Options is the path of cloister's own configuration, when it is not the usual one.
	Options string
}

// table is a table of TOML.
type table = map[string]any

// Add gives the changes that make the runtimes known. Where the main file imports a folder, and
// nothing in it or the imported ones is about the same plugin (which old versions replace as a
// whole), that is a file of its own there; else a block at the main file's end, and a file of its
// own from before goes. The result is read again before it is returned: an addition that containerd
// would not understand is ErrConfig and changes nothing. Done twice, it changes nothing.
func (c Containerd) Add() ([]Change, error) {
	// An old block is cut out first, so that a new one takes its place.
	bare, blocked := cutBlock(c.Text)
	doc, err := parse(c.Path, bare)
	if err != nil {
		return nil, err
	}
	version, err := c.version(doc)
	if err != nil {
		return nil, err
	}
	// Somebody else's runtime of that name is not touched.
	if err := c.taken(c.Path, doc); err != nil {
		return nil, err
	}
	dropIn, alone, err := c.dropIn(doc)
	if err != nil {
		return nil, err
	}
	block := c.block(version)
	// An existing block stays a block: a file of its own beside it would define the runtime twice.
	if dropIn != nil && alone && !blocked {
		dropIn.After = slices.Concat([]byte(fmt.Sprintf("version = %d\n\n", version)), block)
		return []Change{*dropIn}, verify(*dropIn, bare)
	}
	change := Change{Path: c.Path, Before: c.Text, New: c.Missing, After: appendBlock(bare, block)}
	if c.Missing {
		change.After = slices.Concat(newMain(version), block)
	}
	list := []Change{change}
	// The drop-in of an earlier install; with After empty it goes.
	if dropIn != nil && !dropIn.New {
		list = append(list, *dropIn)
	}
	return list, verify(change, bare)
}

// taken is an error when a file has a runtime of a name of ours. Ours has been cut out before, so a
// runtime of that name is somebody's own.
func (c Containerd) taken(name string, doc table) error {
	for _, r := range runtimes() {
		if known := runtimeIn(doc, r.name); known != nil {
			return fmt.Errorf("%w: %s has a runtime %q already, of type %v, that cloister did not write: "+
				"remove it, or set runtime_type = %q in it by hand",
				ErrConfig, name, r.name, known["runtime_type"], r.kind)
		}
	}
	return nil
}

// newMain is the start of a main file where there was none. Containerd 2.2 and later name that
// folder in their default one. Version 3 is containerd 2's.
func newMain(version int) []byte {
	if version == 3 {
		return []byte("version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n\n")
	}
	return []byte(fmt.Sprintf("version = %d\n\n", version))
}

// Remove gives the changes that take away what Add has added, wherever it is. It does not care
// which form Add chose, nor which version of containerd did.
func (c Containerd) Remove() ([]Change, error) {
	var list []Change
	if bare, found := cutBlock(c.Text); found {
		list = append(list, Change{Path: c.Path, Before: c.Text, After: bare})
	}
	doc, err := parse(c.Path, c.Text)
	if err != nil {
		return nil, err
	}
	dropIn, _, err := c.dropIn(doc)
	// A file that is new is one that is not there: nothing to remove.
	if err != nil || dropIn == nil || dropIn.New {
		return list, err
	}
	return append(list, *dropIn), nil
}

// parse reads TOML into maps; the text itself is never written back from them.
func parse(name string, text []byte) (table, error) {
	doc := table{}
	if err := toml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%w: %s is not valid TOML: %w", ErrConfig, name, err)
	}
	return doc, nil
}

// version is the main file's; containerd takes one without for version 1, whose names are others. A
// version that is not known is an error: in another version the plugin may have another name, and
// the runtime would be ignored in silence.
func (c Containerd) version(doc table) (int, error) {
	if c.Missing || len(bytes.TrimSpace(c.Text)) == 0 {
		return c.Version, nil
	}
	switch v := doc["version"].(type) {
	case int64:
		if v >= 2 && v <= 4 {
			return int(v), nil
		}
		return 0, fmt.Errorf("%w: %s has version %d, want 2 to 4: run `containerd config migrate`, which prints "+
			"it in a newer version", ErrConfig, c.Path, v)
	case nil:
		if _, has := doc["plugins"]; has {
			return 0, fmt.Errorf("%w: %s has no version, which means 1: run `containerd config migrate`, which prints "+
				"it in a newer version", ErrConfig, c.Path)
		}
		return 0, fmt.Errorf("%w: %s has no version, which means 1: put version = %d at its start", ErrConfig, c.Path, c.Version)
	}
	return 0, fmt.Errorf("%w: %s: version is %v, want 2 to 4", ErrConfig, c.Path, doc["version"])
}

// dropIn is cloister's file in a folder that the main one imports; nil when there is no such
// folder. alone tells that nobody else says anything of the plugin. Imported patterns are relative
// to the main file, as containerd has it.
func (c Containerd) dropIn(doc table) (change *Change, alone bool, err error) {
	imports, is := doc["imports"].([]any)
	if !is || c.Imported == nil {
		return nil, false, nil
	}
	alone = !aboutRuntimes(doc)
	for _, i := range imports {
		pattern, is := i.(string)
		if !is {
			continue
		}
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(c.Path), pattern)
		}
		files, err := c.Imported(pattern)
		if err != nil {
			return nil, false, err
		}
		own := path.Join(path.Dir(pattern), dropInName)
		// The pattern must match our file's name, or containerd would not read it.
		if ok, err := path.Match(path.Base(pattern), dropInName); err == nil && ok && change == nil {
			text, there := files[own]
			change = &Change{Path: own, Before: text, New: !there}
		}
		// Our own file says something of the plugin, of course.
		delete(files, own)
		others, err := c.others(files)
		if err != nil {
			return nil, false, err
		}
		alone = alone && !others
	}
	return change, alone, nil
}

// dropInName is that of cloister's file in a folder of imports.
const dropInName = "cloister.toml"

// others tells whether any of the files is about the plugin. One with the runtime itself is an
// error. In containerd 1 an imported file replaces a plugin's section as a whole, so a second file
// about it would take away the first one's settings.
func (c Containerd) others(files map[string][]byte) (bool, error) {
	about := false
	for name, text := range files {
		doc, err := parse(name, text)
		if err != nil {
			return false, err
		}
		if err := c.taken(name, doc); err != nil {
			return false, err
		}
		about = about || aboutRuntimes(doc)
	}
	return about, nil
}

// plugin gives the section of the plugin with the runtimes, and whether there is one. One of both
// names counts, whatever the version says.
func plugin(doc table) (table, bool) {
	plugins, _ := doc["plugins"].(table)
	for _, name := range []string{pluginV2, pluginV3} {
		if section, has := plugins[name].(table); has {
			return section, true
		}
	}
	return nil, false
}

// aboutRuntimes tells whether a file configures that plugin at all.
func aboutRuntimes(doc table) bool {
	_, has := plugin(doc)
	return has
}

// runtimeIn gives a runtime's own table, nil when there is none. Each step may be missing; a nil
// table has no keys.
func runtimeIn(doc table, name string) table {
	section, _ := plugin(doc)
	containerd, _ := section["containerd"].(table)
	runtimes, _ := containerd["runtimes"].(table)
	own, _ := runtimes[name].(table)
	return own
}

// block is what is added. Devices of the host are not handed over to a privileged container. The
// annotations of pods and containers that reach the shim are those of io.cloister; which of them
// count is the config's choice.
func (c Containerd) block(version int) []byte {
	name := pluginV2
	if version >= 3 {
		name = pluginV3
	}
	var b strings.Builder
	b.WriteString(beginMark)
	for _, r := range runtimes() {
		fmt.Fprintf(&b, "[plugins.%q.containerd.runtimes.%s]\n", name, r.name)
		fmt.Fprintf(&b, "  runtime_type = %q\n  privileged_without_host_devices = true\n", r.kind)
		b.WriteString("  pod_annotations = [\"io.cloister.*\"]\n  container_annotations = [\"io.cloister.*\"]\n")
		if c.Options != "" {
			fmt.Fprintf(&b, "[plugins.%q.containerd.runtimes.%s.options]\n  ConfigPath = %q\n", name, r.name, c.Options)
		}
	}
	b.WriteString(endMark)
	return []byte(b.String())
}

// cutBlock takes what Add has written out of a file. Text before and after stays to the byte; the
// empty line that appendBlock has put before the block goes.
func cutBlock(text []byte) ([]byte, bool) {
	before, rest, found := bytes.Cut(text, []byte(beginMark))
	_, after, closed := bytes.Cut(rest, []byte(endMark))
	if !found || !closed {
		return text, false
	}
	if bytes.HasSuffix(before, []byte("\n\n")) {
		before = before[:len(before)-1]
	}
	return slices.Concat(before, after), true
}

// appendBlock adds the block after an empty line. A last line without its end gets one.
func appendBlock(text, block []byte) []byte {
	out := slices.Clone(text)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	if len(out) > 0 {
		out = append(out, '\n')
	}
	return append(out, block...)
}

// verify reads the result: a runtimes table written in one line, for one, cannot be added to from
// outside. Both runtimes must be found: a block that is read into the wrong plugin is valid TOML
// and has no effect.
func verify(change Change, bare []byte) error {
	doc, err := parse(change.Path, change.After)
	if err != nil {
		return fmt.Errorf("%w: the file is not valid with the runtimes added: write its table runtimes as sections, "+
			"or add %q to it by hand:\n%s",
			err, Runtime, change.After[min(len(bare), len(change.After)):])
	}
	if runtimeIn(doc, Runtime) == nil || runtimeIn(doc, ProcessRuntime) == nil {
		return fmt.Errorf("%w: %s has sections for plugins of containerd 1 and of containerd 2: keep one kind", ErrConfig, change.Path)
	}
	return nil
}
