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

// Docker is what is known of an installation of Docker.
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
type entry struct {
	RuntimeType string   `json:"runtimeType,omitempty"`
	Options     *options `json:"options,omitempty"`
	Path        string   `json:"path,omitempty"`
	Arguments   []string `json:"runtimeArgs,omitempty"`
}

// entry is what a runtime's is to be.
func (d Docker) entry(r runtime) entry {
	switch {
	case d.Program != "" && d.Options != "":
		return entry{Path: d.Program, Arguments: []string{"--config", d.Options}}
	case d.Program != "":
		return entry{Path: d.Program}
	case d.Options != "":
		return entry{RuntimeType: r.kind, Options: &options{TypeURL: "runtimeoptions.v1.Options", ConfigPath: d.Options}}
	}
	return entry{RuntimeType: r.kind}
}

// ours tells an entry that install writes for a runtime, whichever of the two.
func (e entry) ours(r runtime) bool {
	return e.RuntimeType == r.kind || r.name == Runtime && path.Base(e.Path) == Program
}

// options are containerd's runtimeoptions.v1.Options.
type options struct {
	TypeURL    string `json:"TypeUrl"`
	ConfigPath string `json:"ConfigPath"`
}

// member is one key of an object and where it stands: from the key's quote to the end of its value.
type member struct {
	key                string
	start, value, stop int
}

// object is where an object stands: stop is behind its brace.
type object struct {
	start, stop int
	members     []member
}

func (o object) find(key string) (member, bool) {
	for _, m := range o.members {
		if m.key == key {
			return m, true
		}
	}
	return member{}, false
}

// Add gives the change that makes the runtimes known. All that is there stays as it is, byte by
// byte.
func (d Docker) Add() (Change, error) {
	return d.each(Docker.add)
}

// Remove gives the change that takes the runtimes away; an object of runtimes that is empty then
// goes too, and a file in which nothing else is.
func (d Docker) Remove() (Change, error) {
	return d.each(Docker.remove)
}

// each changes the text for one runtime after the other.
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

func (d Docker) add(r runtime) ([]byte, error) {
	if d.Program != "" && r.name != Runtime { // the command line has one name, and its class from its config
		return d.Text, nil
	}
	want := d.entry(r)
	value, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	own := fmt.Sprintf("%q: %s", r.name, value)
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
		return nil, fmt.Errorf("%w: %s has a runtime %q already, that is not cloister's: %s: take it out, or change it by hand to %s",
			ErrConfig, d.Path, r.name, d.Text[m.value:m.stop], value)
	}
	if d.Options == "" && have.RuntimeType == want.RuntimeType { // ours, with settings that somebody has made
		return d.Text, nil
	}
	return d.checked(slices.Concat(d.Text[:m.value], value, d.Text[m.stop:]))
}

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
	if len(table.members) == 1 {
		table, m = top, list
	}
	if len(top.members) == 1 && table.start == top.start { // nothing else is in the file
		return nil, nil
	}
	return d.checked(cut(d.Text, table, m))
}

// same compares two values of JSON without their blanks.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// checked is the text, unless it is broken.
func (d Docker) checked(text []byte) ([]byte, error) {
	if !json.Valid(text) {
		return nil, fmt.Errorf("%w: %s: adding the runtime would break it", ErrConfig, d.Path)
	}
	return text, nil
}

// scan finds the members of the object that begins at or behind from.
func (d Docker) scan(text []byte, from int) (object, error) {
	wrong := func(err error) (object, error) {
		return object{}, fmt.Errorf("%w: %s is not an object of JSON: %w", ErrConfig, d.Path, err)
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
	if from == 0 {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return wrong(errors.New("something follows it"))
		}
	}
	return o, nil
}

// keyStart goes back from the end of a string to its first quote.
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
// to imitate.
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

// cut takes a member out, with the comma that goes with it.
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
