// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// file is one Go file of the tree.
type file struct {
	path    string // slash-separated, below the module's folder
	source  []byte
	syntax  *ast.File
	imports []string
}

func (f file) dir() string     { return path.Dir(f.path) }
func (f file) isTest() bool    { return strings.HasSuffix(f.path, "_test.go") }
func (f file) generated() bool { return ast.IsGenerated(f.syntax) }

// files parses every Go file that the go tool would see.
func files(t *testing.T) []file {
	t.Helper()
	root := testenv.Tree(t)
	var found []file
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			base := entry.Name()
			if rel == "build" || base == "testdata" || (rel != "." && strings.ContainsAny(base[:1], "._")) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		f, err := parse(root, filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		found = append(found, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func parse(root, rel string) (file, error) {
	source, err := os.ReadFile(filepath.Join(root, rel))
	if err != nil {
		return file{}, err
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), rel, source, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return file{}, err
	}
	f := file{path: rel, source: source, syntax: syntax}
	for _, spec := range syntax.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, name)
	}
	return f, nil
}

func TestTopLevelFolders(t *testing.T) {
	rooms := []string{"cmd", "shim", "runtime", "sandbox", "labels", "vmm", "oci", "sys", "tests", "docs", "deploy"}
	root := testenv.Tree(t)
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || name == "build" || name == ".git" || name == ".github" || name == ".ci" {
			continue
		}
		if !slices.Contains(rooms, name) {
			t.Errorf("folder %s: the top level holds only %s", name, strings.Join(rooms, " "))
			continue
		}
		if _, err := os.Stat(filepath.Join(root, name, "README.md")); err != nil {
			t.Errorf("room %s has no README.md", name)
		}
	}
	for _, name := range []string{"go.mod", "Makefile", "README.md", "LICENSE", "NOTICE", ".ci/run"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("the tree has no %s", name)
		}
	}
}

func TestFolderNames(t *testing.T) {
	banned := []string{"pkg", "util", "utils", "common", "helper", "helpers", "manager", "misc"}
	seen := map[string]bool{}
	for _, f := range files(t) {
		for part := range strings.SplitSeq(f.dir(), "/") {
			if slices.Contains(banned, part) && !seen[f.dir()] {
				seen[f.dir()] = true
				t.Errorf("folder %s: %q says nothing about what is in it", f.dir(), part)
			}
		}
	}
}

func TestLicenceLine(t *testing.T) {
	const line = "// SPDX-License-Identifier: Apache-2.0\n"
	for _, f := range files(t) {
		if f.generated() {
			continue // some generators take no comment over
		}
		if !bytes.HasPrefix(f.source, []byte(line+"\n")) {
			t.Errorf("%s: does not begin with %q and an empty line", f.path, line)
		}
	}
}

// TestPackageComment wants exactly one package comment per package, in doc.go or, for a command, in
// main.go.
func TestPackageComment(t *testing.T) {
	comments := map[string][]string{}
	packages := map[string]string{}
	for _, f := range files(t) {
		name := f.syntax.Name.Name
		if f.isTest() || f.generated() {
			continue
		}
		packages[f.dir()] = name
		if f.syntax.Doc == nil {
			continue
		}
		text := f.syntax.Doc.Text()
		want := "Package " + name + " "
		if name == "main" {
			want = "Command " + path.Base(f.dir()) + " "
		}
		if !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment begins with %q, want %q", f.path, strings.SplitN(text, "\n", 2)[0], want)
		}
		comments[f.dir()] = append(comments[f.dir()], path.Base(f.path))
	}
	for dir := range packages {
		switch found := comments[dir]; len(found) {
		case 0:
			t.Errorf("%s has no package comment", dir)
		case 1:
		default:
			t.Errorf("%s has package comments in %s: keep one", dir, strings.Join(found, " and "))
		}
	}
}

func TestFileLength(t *testing.T) {
	const most = 450
	for _, f := range files(t) {
		if f.generated() || f.isTest() {
			continue
		}
		if lines := bytes.Count(f.source, []byte("\n")); lines > most {
			t.Errorf("%s has %d lines, at most %d: a file is about one noun or one verb", f.path, lines, most)
		}
	}
}

// TestLengthOfTheLifecycle: package sandbox says in which order things are done. How each is done
// has a package of its own.
func TestLengthOfTheLifecycle(t *testing.T) {
	const most = 900
	lines := 0
	for _, f := range files(t) {
		if f.dir() == "sandbox" && !f.isTest() {
			lines += bytes.Count(f.source, []byte("\n"))
		}
	}
	if lines > most {
		t.Errorf("package sandbox has %d lines, at most %d: move a part into a package below it", lines, most)
	}
}

// TestStructsOfTheLifecycle: a struct of package sandbox with more fields than this holds what a
// package of its own should.
func TestStructsOfTheLifecycle(t *testing.T) {
	const most = 15
	for _, f := range files(t) {
		if f.dir() != "sandbox" || f.isTest() {
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), f.path, f.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && s.Fields.NumFields() > most {
				t.Errorf("%s: struct %s has %d fields, at most %d", f.path, spec.Name.Name, s.Fields.NumFields(), most)
			}
			return true
		})
	}
}

func TestNothingUnfinished(t *testing.T) {
	marks := [][]byte{[]byte("TO" + "DO"), []byte("FIX" + "ME"), []byte("XX" + "X:")}
	for _, f := range files(t) {
		for i, line := range bytes.Split(f.source, []byte("\n")) {
			for _, mark := range marks {
				if bytes.Contains(line, mark) {
					t.Errorf("%s:%d: %s: finish it or say in the room's README why not", f.path, i+1, mark)
				}
			}
		}
	}
}

// TestNoMergeMarks: no file has the lines that git writes where two changes meet. The compiler
// finds them in Go alone.
func TestNoMergeMarks(t *testing.T) {
	root := testenv.Tree(t)
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || name == filepath.Join(root, "build")) {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if line := mergeMark(text); line > 0 {
			t.Errorf("%s:%d: a mark of a merge: keep one of the two texts", name, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"a\n" + strings.Repeat("<", 7) + " HEAD\nb\n": 2,
		strings.Repeat(">", 7) + " 1234567\n":         1,
		"Title\n=======\n<<<<<<<<<< \n":               0,
	} {
		if got := mergeMark([]byte(text)); got != want {
			t.Errorf("mergeMark(%q) = %d, want %d", text, got, want)
		}
	}
}

// mergeMark is the number of the first line that begins with a mark, or 0.
func mergeMark(text []byte) int {
	for i, line := range bytes.Split(text, []byte("\n")) {
		for _, mark := range []string{"<", ">"} {
			if bytes.HasPrefix(line, []byte(strings.Repeat(mark, 7)+" ")) {
				return i + 1
			}
		}
	}
	return 0
}

func TestShimMainIsShort(t *testing.T) {
	const main = "cmd/containerd-shim-cloister-v2/main.go"
	for _, f := range files(t) {
		if f.path != main {
			continue
		}
		if lines := bytes.Count(f.source, []byte("\n")); lines >= 60 {
			t.Errorf("%s has %d lines, want under 60: it wires the parts", main, lines)
		}
	}
}
