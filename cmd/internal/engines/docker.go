// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Docker is what is known of an installation of Docker. daemon.json is changed as text, since
// decoding and writing it anew would lose order and form. Places are found with the JSON decoder's
// offsets.
type Docker struct {
	// Path and Text are daemon.json's; Missing when there is none.
	Path    string
	Text    []byte
	Missing bool
	// Options is the path of cloister's own configuration, when it is not the usual one.
	Options string
	// Program is the path of cloister-oci, for a Docker that takes OCI command lines only: empty
	// for one that takes shims.
	Program string
}

// entry is the runtime's value in daemon.json: of a shim, or of a command line with its arguments.
// The fields are Docker's own names.
type entry struct {
	RuntimeType string   `json:"runtimeType,omitempty"`
	Options     *options `json:"options,omitempty"`
	Path        string   `json:"path,omitempty"`
	Arguments   []string `json:"runtimeArgs,omitempty"`
}

// entry is what a runtime's is to be. Options are given only where the config is not the usual one,
// so that the common entry is short.
func (d Docker) entry(r runtime) entry {
	switch {
	case d.Program != "" && d.Options != "":
		return entry{Path: beside(d.Program, r.program), Arguments: []string{"--config", d.Options}}
	case d.Program != "":
		return entry{Path: beside(d.Program, r.program)}
	case d.Options != "":
		return entry{RuntimeType: r.kind, Options: &options{TypeURL: "runtimeoptions.v1.Options", ConfigPath: d.Options}}
	}
	return entry{RuntimeType: r.kind}
}

// ours tells an entry that install writes for a runtime, whichever of the two. A path counts by its
// last part: it may be that of an earlier installation.
func (e entry) ours(r runtime) bool {
	return e.RuntimeType == r.kind || path.Base(e.Path) == r.program
}

// options are containerd's runtimeoptions.v1.Options. Docker decodes them by the type's name.
type options struct {
	TypeURL    string `json:"TypeUrl"`
	ConfigPath string `json:"ConfigPath"`
}

// member is one key of an object and where it stands: from the key's quote to the end of its value.
// The offsets are in the whole text, so that pieces can be cut without decoding.
type member struct {
	key                string
	start, value, stop int
}

// object is where an object stands: stop is behind its brace. start is that of the opening brace.
type object struct {
	start, stop int
	members     []member
}

// find gives a member by its key. JSON allows a key twice; the first one is taken here.
func (o object) find(key string) (member, bool) {
	for _, m := range o.members {
		if m.key == key {
			return m, true
		}
	}
	return member{}, false
}

// Add gives the change that makes the runtimes known. All that is there stays as it is, byte by
// byte. A runtime of that name that is somebody else's is ErrConfig.
func (d Docker) Add() (Change, error) {
	return d.each(Docker.add)
}

// Remove gives the change that takes the runtimes away; an object of runtimes that is empty then
// goes too, and a file in which nothing else is.
func (d Docker) Remove() (Change, error) {
	return d.each(Docker.remove)
}

// each changes the text for one runtime after the other. Each change is computed on the text of the
// one before, since offsets move.
func (d Docker) each(change func(Docker, runtime) ([]byte, error)) (Change, error) {
	whole := Change{Path: d.Path, Before: d.Text, New: d.Missing}
	for _, r := range runtimes() {
		text, err := change(d, r)
		if err != nil {
			return whole, err
		}
		d.Text = text
	}
	whole.After = d.Text
	return whole, nil
}

// add gives the text with one runtime. An entry of ours with settings that somebody has added
// stays, unless the config is to be another one.
func (d Docker) add(r runtime) ([]byte, error) {
	want := d.entry(r)
	value, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	own := fmt.Sprintf("%q: %s", r.name, value)
	// An empty file is valid for Docker, and no JSON.
	if len(bytes.TrimSpace(d.Text)) == 0 {
		return []byte("{\n  \"runtimes\": {\n    " + own + "\n  }\n}\n"), nil
	}
	top, err := d.scan(d.Text, 0)
	if err != nil {
		return nil, err
	}
	list, has := top.find("runtimes")
	if !has {
		return d.checked(insert(d.Text, top, "\"runtimes\": {\n    "+own+"\n  }", "  "))
	}
	table, err := d.scan(d.Text[:list.stop], list.value)
	if err != nil {
		return nil, err
	}
	m, has := table.find(r.name)
	if !has {
		return d.checked(insert(d.Text, table, own, "    "))
	}
	if same(d.Text[m.value:m.stop], value) {
		return d.Text, nil
	}
	var have entry
	if err := json.Unmarshal(d.Text[m.value:m.stop], &have); err != nil || !have.ours(r) {
		return nil, fmt.Errorf("%w: %s has a runtime %q already, that cloister did not write: %s: remove it, or change it by hand to %s",
			ErrConfig, d.Path, r.name, d.Text[m.value:m.stop], value)
	}
	// A Docker that takes shims may have had options by hand; only a config that was asked for
	// replaces them.
	if d.Options == "" && have.RuntimeType == want.RuntimeType { // ours, with settings that somebody has made
		return d.Text, nil
	}
	return d.checked(slices.Concat(d.Text[:m.value], value, d.Text[m.stop:]))
}

// remove takes a runtime out, whoever wrote it: the name is what was asked about.
func (d Docker) remove(r runtime) ([]byte, error) {
	if len(bytes.TrimSpace(d.Text)) == 0 {
		return d.Text, nil
	}
	top, err := d.scan(d.Text, 0)
	if err != nil {
		return nil, err
	}
	list, has := top.find("runtimes")
	if !has {
		return d.Text, nil
	}
	table, err := d.scan(d.Text[:list.stop], list.value)
	if err != nil {
		return nil, err
	}
	m, has := table.find(r.name)
	if !has {
		return d.Text, nil
	}
	// The last runtime goes with the object around it.
	if len(table.members) == 1 {
		table, m = top, list
	}
	// Nothing is left: cmd/cloister removes or empties the file.
	if len(top.members) == 1 && table.start == top.start { // nothing else is in the file
		return nil, nil
	}
	return d.checked(cut(d.Text, table, m))
}

// same compares two values of JSON without their blanks. Broken text is equal to nothing.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// checked is the text, unless it is broken. It is the last line of defence: dockerd does not start
// with a file that is no JSON.
func (d Docker) checked(text []byte) ([]byte, error) {
	if !json.Valid(text) {
		return nil, fmt.Errorf("%w: %s: it would not be valid JSON after the change", ErrConfig, d.Path)
	}
	return text, nil
}

// scan finds the members of the object that begins at or behind from. It decodes each value whole
// and keeps only where it stands.
func (d Docker) scan(text []byte, from int) (object, error) {
	wrong := func(err error) (object, error) {
		return object{}, fmt.Errorf("%w: %s is not a JSON object: %w", ErrConfig, d.Path, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text[from:]))
	first, err := decoder.Token()
	if err != nil {
		return wrong(err)
	}
	if first != json.Delim('{') {
		return wrong(fmt.Errorf("it begins with %v", first))
	}
	o := object{start: from + int(decoder.InputOffset()) - 1}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return wrong(err)
		}
		key, is := token.(string)
		if !is {
			return wrong(fmt.Errorf("key %v", token))
		}
		end := from + int(decoder.InputOffset())
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return wrong(err)
		}
		stop := from + int(decoder.InputOffset())
		o.members = append(o.members, member{key, keyStart(text, end), stop - len(raw), stop})
	}
	if _, err := decoder.Token(); err != nil {
		return wrong(err)
	}
	o.stop = from + int(decoder.InputOffset())
	// Anything behind the object would make dockerd refuse the file.
	if from == 0 {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return wrong(errors.New("more text follows the object"))
		}
	}
	return o, nil
}

// keyStart goes back from the end of a string to its first quote. A quote behind an odd number of
// backslashes belongs to the key.
func keyStart(text []byte, end int) int {
	for i := end - 2; i > 0; i-- {
		if text[i] != '"' {
			continue
		}
		slashes := 0
		for i-1-slashes >= 0 && text[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return 0
}

// insert puts text in as the last member of o. indent is used where there is no member whose place
// to imitate. A new member looks like the one before it: its own line and indentation, or the same
// line.
func insert(text []byte, o object, own, indent string) []byte {
	if len(o.members) == 0 {
		closing := strings.TrimSuffix(indent, "  ")
		return slices.Concat(text[:o.start+1], []byte("\n"+indent+own+"\n"+closing), text[o.stop-1:])
	}
	last := o.members[len(o.members)-1]
	if lead := leading(text, last.start); lead != "" {
		return slices.Concat(text[:last.stop], []byte(",\n"+lead[1:]+own), text[last.stop:])
	}
	return slices.Concat(text[:last.stop], []byte(", "+own), text[last.stop:])
}

// leading is the line break and the blanks before a member; empty when it does not begin a line.
// The first byte is the line break.
func leading(text []byte, start int) string {
	i := start
	for i > 0 && (text[i-1] == ' ' || text[i-1] == '\t') {
		i--
	}
	if i == 0 || text[i-1] != '\n' {
		return ""
	}
	return string(text[i-1 : start])
}

// cut takes a member out, with the comma that goes with it. The first member takes the comma behind
// it with it, any other the one before.
func cut(text []byte, o object, m member) []byte {
	i := slices.Index(o.members, m)
	switch {
	case len(o.members) == 1:
		return slices.Concat(text[:o.start+1], text[o.stop-1:])
	case i == 0:
		return slices.Concat(text[:m.start], text[o.members[1].start:])
	}
	return slices.Concat(text[:o.members[i-1].stop], text[m.stop:])
}
