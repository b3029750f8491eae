// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

var update = flag.Bool("update", false, "write what is generated from the code anew")

// The places in docs/configuration.md between which text is generated.
const (
	generated = "<!-- generated from the code: make golden -->\n"
	written   = "<!-- end -->\n"
)

// TestConfigurationPage compares the lists of docs/configuration.md with the code: keys with the
// fields of sandbox.Config that have a toml name, annotations with the constants of package oci.
// Each must have a comment.
func TestConfigurationPage(t *testing.T) {
	name := filepath.Join(testenv.Tree(t), "docs", "configuration.md")
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), generated)
	_, tail, closed := strings.Cut(rest, written)
	if !ok || !closed {
		t.Fatalf("%s has no %q and %q", name, generated, written)
	}
	c := &configuration{t: t, packages: map[string]map[string]ast.Expr{}, imports: map[string]map[string]string{}}
	for _, f := range files(t) {
		c.read(f)
	}
	c.table("", "sandbox/config", "Config", false)
	c.annotations()
	want := head + generated + c.out.String() + written + tail
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(page) {
		t.Errorf("docs/configuration.md is not what the code says: go test ./tests/arch -run TestConfigurationPage -update")
	}
}

// configuration finds the keys in the syntax of the tree.
type configuration struct {
	t        *testing.T
	out      bytes.Buffer
	packages map[string]map[string]ast.Expr // types by name, by folder
	imports  map[string]map[string]string   // folders by package name, by folder
	names    []*ast.ValueSpec               // constants of package oci
}

func (c *configuration) read(f file) {
	if f.isTest() || f.generated() {
		return
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), f.path, f.source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.packages[f.dir()] == nil {
		c.packages[f.dir()], c.imports[f.dir()] = map[string]ast.Expr{}, map[string]string{}
	}
	for _, name := range f.imports {
		if folder, ours := strings.CutPrefix(name, "cloister/"); ours {
			c.imports[f.dir()][folder[strings.LastIndex(folder, "/")+1:]] = folder
		}
	}
	for _, decl := range syntax.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range group.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				c.packages[f.dir()][spec.Name.Name] = spec.Type
			case *ast.ValueSpec:
				if f.dir() == "oci" && group.Tok == token.CONST {
					c.names = append(c.names, spec)
				}
			}
		}
	}
}

// table writes the keys of a struct, and after them those of the structs in it.
func (c *configuration) table(prefix, folder, name string, list bool) {
	structure, ok := c.packages[folder][name].(*ast.StructType)
	if !ok {
		c.t.Fatalf("%s.%s is not a struct", folder, name)
	}
	switch {
	case prefix == "":
		c.out.WriteString("\n## Top level\n\n")
	case list:
		fmt.Fprintf(&c.out, "\n## [[%s]]\n\n", prefix)
	default:
		fmt.Fprintf(&c.out, "\n## [%s]\n\n", prefix)
	}
	var deeper []func()
	for _, field := range structure.Fields.List {
		if field.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			c.t.Fatal(err)
		}
		key := reflect.StructTag(tag).Get("toml")
		if key == "" || key == "-" {
			continue
		}
		full := strings.TrimPrefix(prefix+"."+key, ".")
		of, in, many := c.kind(folder, field.Type)
		if _, nested := c.packages[in][of].(*ast.StructType); nested && of != "Duration" {
			deeper = append(deeper, func() { c.table(full, in, of, many) })
			if len(field.Comment.Text()+field.Doc.Text()) == 0 {
				continue
			}
		}
		c.item(key, c.words(in, of, many), comment(field.Doc, field.Comment), field.Names[0].Name)
	}
	for _, f := range deeper {
		f()
	}
}

// kind is the name and the folder of a field's type, and whether the field is a list.
func (c *configuration) kind(folder string, expr ast.Expr) (name, in string, list bool) {
	switch expr := expr.(type) {
	case *ast.ArrayType:
		name, in, _ = c.kind(folder, expr.Elt)
		return name, in, true
	case *ast.StarExpr:
		return c.kind(folder, expr.X)
	case *ast.SelectorExpr:
		room, ok := expr.X.(*ast.Ident)
		if !ok {
			c.t.Fatalf("%s: a type that the page does not know", folder)
		}
		return expr.Sel.Name, c.imports[folder][room.Name], false
	case *ast.Ident:
		return expr.Name, folder, false
	}
	c.t.Fatalf("%s: a type that the page does not know: %T", folder, expr)
	return "", "", false
}

// words say what a value looks like in TOML.
func (c *configuration) words(folder, name string, list bool) string {
	if base, ok := c.packages[folder][name].(*ast.Ident); ok {
		name = base.Name
	}
	word := map[string]string{"string": "string", "bool": "boolean", "int": "integer", "uint32": "integer", "Duration": "duration"}[name]
	if word == "" {
		word = "table"
	}
	if list {
		return "list of " + word + "s"
	}
	return word
}

func (c *configuration) annotations() {
	c.out.WriteString("\n## Annotations\n\n")
	for _, spec := range c.names {
		name := spec.Names[0].Name
		if !strings.HasPrefix(name, "Annotation") || name == "AnnotationPrefix" {
			continue
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value) //nolint:forcetypeassert // a constant text
		if err != nil {
			c.t.Fatal(err)
		}
		c.item(value, "", comment(spec.Doc, spec.Comment), name)
	}
	c.out.WriteString("\n")
}

// comment is a declaration's comment on one line.
func comment(groups ...*ast.CommentGroup) string {
	var words []string
	for _, g := range groups {
		words = append(words, strings.Fields(g.Text())...)
	}
	return strings.Join(words, " ")
}

// item writes one key, its lines at most 100 wide. The Go name with which a comment begins is not
// the reader's.
func (c *configuration) item(key, kind, text, goName string) {
	if text == "" {
		c.t.Errorf("%s: the key or annotation %s has no comment: say what it is, and its default", goName, key)
	}
	text = strings.TrimPrefix(text, goName+" ")
	for _, verb := range []string{"is ", "are "} {
		text = strings.TrimPrefix(text, verb)
	}
	if kind != "" {
		kind = " (" + kind + ")"
	}
	words := strings.Fields(text)
	if !strings.HasSuffix(text, ".") && len(words) > 0 {
		words[len(words)-1] += "."
	}
	line := "- `" + key + "`" + kind + ":"
	for _, word := range words {
		if len(line)+1+len(word) > 100 {
			c.out.WriteString(line + "\n")
			line = " "
		}
		line += " " + word
	}
	c.out.WriteString(line + "\n")
}

func TestConfigurationItem(t *testing.T) {
	c := &configuration{t: t}
	c.item("nics", "integer", "NICs is the number of NICs; default 2.", "NICs")
	c.item("long", "", strings.Repeat("word ", 30), "Long")
	lines := strings.Split(c.out.String(), "\n")
	if lines[0] != "- `nics` (integer): the number of NICs; default 2." {
		t.Errorf("item = %q", lines[0])
	}
	if slices.ContainsFunc(lines, func(l string) bool { return len(l) > 100 }) || !strings.HasPrefix(lines[2], "  word") {
		t.Errorf("a long text is not wrapped: %q", lines)
	}
}
