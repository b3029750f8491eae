// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// The forms of an output. Anything with "{{" in it is a template of text/template.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// withOutput adds --output, and --json for short. Every verb that lists something has it, so that
// scripts need not parse tables.
func (c *command) withOutput(standard string) {
	c.format = c.Flags().StringP("output", "o", standard,
		"`form` of the output: table, json, yaml, or a Go template such as '{{.id}}', with the names of the JSON, for each item")
	c.asJSON = c.Flags().Bool("json", false, "the same as --output json")
	_ = c.RegisterFlagCompletionFunc("output",
		cobra.FixedCompletions([]string{formatTable, formatJSON, formatYAML}, cobra.ShellCompDirectiveNoFileComp))
}

// checkOutput tells whether --output, if the verb has it, names a form. A wrong template is wrong
// usage, found before the verb does anything.
func (c *command) checkOutput() error {
	if c.format == nil || slices.Contains([]string{formatTable, formatJSON, formatYAML}, *c.format) {
		return nil
	}
	if !strings.Contains(*c.format, "{{") {
		return fmt.Errorf("--output %q: want table, json, yaml or a Go template such as '{{.id}}'", *c.format)
	}
	_, err := parseTemplate(*c.format)
	return err
}

// parseTemplate reads a template of --output. The function json in it prints a part as JSON.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("output").Funcs(template.FuncMap{"json": jsonLine}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	return t, nil
}

// emit prints a value for programs. It is false where the output is to be a table, which is
// the caller's to print. A verb calls it once for all it prints, or once for each line of a stream.
func (c *command) emit(value any) (bool, error) {
	// --json wins over --output.
	format := *c.format
	if *c.asJSON {
		format = formatJSON
	}
	switch format {
	case formatTable:
		return false, nil
	case formatJSON:
		return true, printJSON(c.std.out, value)
	case formatYAML:
		// YAML is made of the JSON, with the same names.
		text, err := yaml.Marshal(value)
		if err == nil {
			_, err = c.std.out.Write(text)
		}
		return true, err
	}
	return true, printTemplate(c.std.out, format, value)
}

// printTemplate applies a template to a value, or to each item of a list, a line for each. The
// value is what its JSON says: names are those that --output json shows. The value goes through
// JSON once, so a template sees the same names as a script.
func printTemplate(out io.Writer, text string, value any) error {
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a pid is not to be shown as 1e+06
	var plain any
	if err := d.Decode(&plain); err != nil {
		return err
	}
	items, isList := plain.([]any)
	if !isList {
		items = []any{plain}
	}
	for _, item := range items {
		// A field that the value does not have is an error of the template, or "<no value>".
		if err := t.Execute(out, item); err != nil {
			return fmt.Errorf("--output: %w", err)
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
	}
	return nil
}

// jsonLine is the function json of templates. It is for parts that are lists or objects.
func jsonLine(value any) (string, error) {
	text, err := json.Marshal(value)
	return string(text), err
}

// printJSON indents, for people. HTML is not escaped: a path with an ampersand stays as it is.
func printJSON(out io.Writer, value any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}
