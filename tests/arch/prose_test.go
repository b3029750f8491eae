// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"cloister/tests/testenv"
)

// The rules about prose. CONTRIBUTING.md has them in words.
const (
	wideProse    = "wide prose"   // a comment or a paragraph wider than 100 columns
	wideCode     = "wide code"    // code, or a row of a table, wider than 140
	wideCell     = "wide cell"    // a cell of a table with more than 200 characters
	dialect      = "dialect"      // a phrase that has a standard term
	undocumented = "undocumented" // an exported name without a comment
	deadLink     = "dead link"    // a relative link to nothing
	roomTable    = "room table"   // a README whose table is not of the folders beside it
	claimless    = "no such test" // a document that names a test which is nowhere
	proseWidth   = 100
	codeWidth    = 140
	cellWidth    = 200
	tabWidth     = 4 // as the linter's
	allowedCount = "testdata/allowed.tsv"
)

// phrases are what the project no longer says, each with what it says instead.
var phrases = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b(for|a) want of\b`), "without, lack of"},
	{regexp.MustCompile(`\bpatience\b`), "timeout, limit"},
	{regexp.MustCompile(`\btellings?\b`), "messages, events"},
	{regexp.MustCompile(`\b(network )?cards?(\W*$|[^%\w])`), "NIC"},
	{regexp.MustCompile(`\bnobody looks\b`), "say what is disabled"},
	{regexp.MustCompile(`\bwhat there is of\b`), "say the subject"},
	{regexp.MustCompile(`\bhas to come\b`), "is awaited"},
	{regexp.MustCompile(`\bfor the sake of\b`), "because of"},
	{regexp.MustCompile(`\b(is|are|was|were) told of\b`), "learns of, is notified of"},
	{regexp.MustCompile(`\bstands? (still|in for)\b`), "stops, replaces"},
	{regexp.MustCompile(`\b[Ww]hat is [^.,;:|]{1,60} is `), "begin with the subject"},
	{regexp.MustCompile(`\b(comes|came|become) of (it|that)\b`), "results"},
}

// finding is one place that breaks a rule.
type finding struct {
	rule, file string
	line       int
	what       string
}

// TestProse compares what breaks the rules with testdata/allowed.tsv. A line there allows a number
// of findings of a rule in a folder and below it; the longest folder counts. What is not listed is
// not allowed. Numbers may only shrink: -update writes lower ones, and never a higher one.
func TestProse(t *testing.T) {
	allowed, order := readAllowed(t)
	found := map[string]int{}
	byKey := map[string][]finding{}
	for _, f := range findings(t) {
		key := entry(allowed, f)
		found[key]++
		byKey[key] = append(byKey[key], f)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		list := byKey[key]
		if found[key] <= allowed[key] {
			continue
		}
		t.Errorf("%s: %d, allowed %d. Mend what you added:", strings.ReplaceAll(key, "\t", ", "), found[key], allowed[key])
		for _, f := range list[:min(len(list), 40)] {
			t.Logf("  %s:%d: %s: %s", f.file, f.line, f.rule, f.what)
		}
	}
	if *update && !t.Failed() {
		var out bytes.Buffer
		for _, key := range order {
			if n := found[key]; n > 0 {
				fmt.Fprintf(&out, "%s\t%d\n", key, n)
			}
		}
		if err := os.WriteFile(allowedCount, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// readAllowed reads the numbers by rule and folder, and the order of their lines.
func readAllowed(t *testing.T) (map[string]int, []string) {
	t.Helper()
	data, err := os.ReadFile(allowedCount)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]int{}
	var order []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 3 {
			t.Fatalf("%s: %q: want rule, folder and number", allowedCount, line)
		}
		n, err := strconv.Atoi(fields[2])
		if err != nil || n < 1 {
			t.Fatalf("%s: %q: want a number above zero", allowedCount, line)
		}
		key := fields[0] + "\t" + fields[1]
		allowed[key] = n
		order = append(order, key)
	}
	return allowed, order
}

// entry is the line of the list that counts a finding: that of the longest folder.
func entry(allowed map[string]int, f finding) string {
	for folder := path.Dir(f.file); folder != "."; folder = path.Dir(folder) {
		if _, ok := allowed[f.rule+"\t"+folder]; ok {
			return f.rule + "\t" + folder
		}
	}
	return f.rule + "\t" + path.Dir(f.file)
}

// findings applies all rules to the tree.
func findings(t *testing.T) []finding {
	t.Helper()
	root := testenv.Tree(t)
	var all []finding
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	for _, f := range files(t) {
		for _, m := range declared.FindAllSubmatch(f.source, -1) {
			tests[string(m[1])] = true
		}
		if !f.generated() {
			all = append(all, goFindings(t, f)...)
		}
	}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		if d.IsDir() {
			if rel == "build" || rel == ".git" || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		switch {
		case filepath.Ext(name) == ".md":
			all = append(all, documentFindings(root, filepath.ToSlash(rel), string(data), tests)...)
		case filepath.Ext(name) == ".sh" || d.Name() == "Makefile" ||
			(strings.HasPrefix(rel, ".ci/") && bytes.HasPrefix(data, []byte("#!"))):
			all = append(all, widths(filepath.ToSlash(rel), string(data), "#")...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func columns(line string) int {
	return utf8.RuneCountInString(line) + (tabWidth-1)*strings.Count(line, "\t")
}

// widths finds lines that are too wide; mark is what a comment begins with.
func widths(file, text, mark string) []finding {
	var all []finding
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\n")
		body := strings.TrimSpace(line)
		comment := strings.HasPrefix(body, mark)
		switch w := columns(line); {
		case strings.HasPrefix(body, "//go:") || strings.HasPrefix(body, "//nolint"):
		case comment && !strings.Contains(strings.TrimSpace(strings.TrimPrefix(body, mark)), " "): // one long word, as an address
		case comment && w > proseWidth:
			all = append(all, finding{wideProse, file, n, fmt.Sprintf("%d columns, at most %d", w, proseWidth)})
		case w > codeWidth:
			all = append(all, finding{wideCode, file, n, fmt.Sprintf("%d columns, at most %d", w, codeWidth)})
		}
	}
	return all
}

// goFindings applies the rules to a Go file: words in comments and texts alone, since a name of the
// standard library or of another project is not ours to choose.
func goFindings(t *testing.T, f file) []finding {
	t.Helper()
	all := widths(f.path, string(f.source), "//")
	if f.path == "tests/arch/prose_test.go" {
		return all
	}
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, f.path, f.source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	words := func(pos token.Pos, text string) {
		for _, p := range phrases {
			for _, m := range p.pattern.FindAllString(text, -1) {
				all = append(all, finding{dialect, f.path, set.Position(pos).Line, fmt.Sprintf("%q: %s", m, p.instead)})
			}
		}
	}
	for _, group := range syntax.Comments {
		words(group.Pos(), strings.Join(strings.Fields(group.Text()), " "))
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
			words(text.Pos(), text.Value)
		}
		return true
	})
	if f.isTest() || syntax.Name.Name == "main" || strings.HasPrefix(f.path, "tests/") {
		return all
	}
	for _, name := range withoutComment(syntax) {
		all = append(all, finding{undocumented, f.path, set.Position(name.Pos()).Line, name.Name})
	}
	return all
}

// withoutComment lists the exported names of a file that have no comment, neither their own nor
// their group's.
func withoutComment(syntax *ast.File) []*ast.Ident {
	var names []*ast.Ident
	for _, decl := range syntax.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Doc == nil && decl.Name.IsExported() && exportedReceiver(decl) {
				names = append(names, decl.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() && decl.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						names = append(names, spec.Name)
					}
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						if name.IsExported() && decl.Doc == nil && spec.Doc == nil && spec.Comment == nil {
							names = append(names, name)
						}
					}
				}
			}
		}
	}
	return names
}

// standard are methods whose contract is the standard library's.
var standard = []string{
	"String", "Error", "Unwrap", "Close", "Read", "Write", "UnmarshalText", "MarshalText",
	"UnmarshalJSON", "MarshalJSON", "Is",
}

// exportedReceiver tells whether a function has none, or one that others can use it by.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if generic, ok := receiver.(*ast.IndexExpr); ok {
		receiver = generic.X
	}
	name, ok := receiver.(*ast.Ident)
	return ok && name.IsExported() && !slices.Contains(standard, f.Name.Name)
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	testName = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+\b\*?`)
	loneLink = regexp.MustCompile(`^- \[[^\]]*\]\([^)\s]+\)$`) // an item of a list that cannot be wrapped
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// documentFindings applies the rules to a page.
func documentFindings(root, file, text string, tests map[string]bool) []finding {
	var all []finding
	add := func(rule string, line int, format string, args ...any) {
		all = append(all, finding{rule, file, line, fmt.Sprintf(format, args...)})
	}
	fenced := false
	n := 0
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		n++
		line := scanner.Text()
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		row := strings.HasPrefix(line, "|")
		most, rule := proseWidth, wideProse
		if row || fenced || strings.HasPrefix(line, "    ") {
			most, rule = codeWidth, wideCode
		}
		if w := columns(line); w > most && strings.Contains(strings.TrimSpace(line), " ") && !loneLink.MatchString(line) {
			add(rule, n, "%d columns, at most %d", w, most)
		}
		if fenced {
			continue
		}
		for _, p := range phrases {
			for _, m := range p.pattern.FindAllString(line, -1) {
				add(dialect, n, "%q: %s", m, p.instead)
			}
		}
		for cell := range strings.SplitSeq(line, "|") {
			if row && utf8.RuneCountInString(strings.TrimSpace(cell)) > cellWidth {
				add(wideCell, n, "a cell of %d characters, at most %d: a phrase, or a paragraph below the table", len(cell), cellWidth)
			}
		}
		for _, m := range link.FindAllStringSubmatch(line, -1) {
			if why := dead(root, file, m[1]); why != "" {
				add(deadLink, n, "%s: %s", m[1], why)
			}
		}
		for _, name := range testName.FindAllString(line, -1) {
			if !named(tests, name) {
				add(claimless, n, "%s is no test", name)
			}
		}
	}
	if path.Base(file) == "README.md" {
		for _, what := range missingFolders(root, file, text) {
			add(roomTable, 1, "%s", what)
		}
	}
	return all
}

// named tells whether a test of that name is there, or for a name that ends in *, one that begins
// with it.
func named(tests map[string]bool, name string) bool {
	prefix, open := strings.CutSuffix(name, "*")
	if !open {
		return tests[name]
	}
	for test := range tests {
		if strings.HasPrefix(test, prefix) {
			return true
		}
	}
	return false
}

// dead says why a link of a page leads nowhere.
func dead(root, file, target string) string {
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return ""
	}
	name, anchor, _ := strings.Cut(target, "#")
	name = path.Join(path.Dir(file), name)
	if strings.HasPrefix(target, "#") {
		name = file
	}
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if info, statErr := os.Stat(filepath.Join(root, filepath.FromSlash(name))); statErr == nil && info.IsDir() {
		return ""
	}
	if err != nil {
		return "there is no " + name
	}
	if anchor == "" {
		return ""
	}
	for _, m := range heading.FindAllStringSubmatch(string(data), -1) {
		if slug(m[1]) == anchor {
			return ""
		}
	}
	return name + " has no such heading"
}

// slug is the anchor that a heading gets on a page.
func slug(title string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(title))
}

// missingFolders compares the packages beside a README with the folders that its tables name: each
// direct folder with Go files, but for those named internal, has to be in it, by its name or its
// path.
func missingFolders(root, file, text string) []string {
	var missing []string
	entries, err := os.ReadDir(filepath.Join(root, path.Dir(file)))
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		if !e.IsDir() || strings.ContainsAny(e.Name()[:1], "._") || e.Name() == "build" {
			continue
		}
		sources, err := filepath.Glob(filepath.Join(root, path.Dir(file), e.Name(), "*.go"))
		if err != nil || len(sources) == 0 || e.Name() == "internal" || path.Dir(file) == "." {
			continue
		}
		if !regexp.MustCompile(`(?m)^\|.*\b` + regexp.QuoteMeta(e.Name()) + `\b`).MatchString(text) {
			missing = append(missing, "no table has the folder "+e.Name())
		}
	}
	return missing
}

// TestProseRules: each rule finds what it is for, and nothing else.
func TestProseRules(t *testing.T) {
	long := strings.Repeat("word ", 22)
	page := "# A title: `x`\n" + long + "\n| a | " + strings.Repeat("word ", 41) + "|\n    " + long + "\n" +
		"[a](nowhere.md) [b](README.md#no-such) [c](#a-title-x) [d](README.md) [e](https://example.org/x)\n" +
		"A guest has two cards. TestNowhere TestHere TestHer*\n"
	count := map[string]int{}
	for _, f := range documentFindings(testenv.Tree(t), "page.md", page, map[string]bool{"TestHere": true}) {
		count[f.rule]++
	}
	// The link to a heading of the page itself is not found: there is no page.md.
	want := map[string]int{wideProse: 1, wideCode: 1, wideCell: 1, dialect: 1, deadLink: 3, claimless: 1}
	if !maps.Equal(count, want) {
		t.Errorf("findings of the page = %v, want %v", count, want)
	}
	source := "package x\n\n// " + long + "\nvar A = 1 // for want of a comment\n\nfunc F() {}\n\n// G is documented.\nfunc G() {}\n\n" +
		"type t int\n\nfunc (t) M() {}\n\nconst text = \"" + strings.Repeat("word ", 30) + "\"\n"
	f := file{path: "x/x.go", source: []byte(source)}
	count = map[string]int{}
	for _, f := range goFindings(t, f) {
		count[f.rule]++
	}
	if want := map[string]int{wideProse: 1, wideCode: 1, dialect: 1, undocumented: 1}; !maps.Equal(count, want) {
		t.Errorf("findings of the Go file = %v, want %v", count, want)
	}
	allowed := map[string]int{"dialect\tsandbox": 3, "dialect\tsandbox/plan": 1}
	for name, want := range map[string]string{
		"sandbox/x.go": "dialect\tsandbox", "sandbox/jail/x.go": "dialect\tsandbox",
		"sandbox/plan/x.go": "dialect\tsandbox/plan", "oci/x.go": "dialect\toci",
	} {
		if got := entry(allowed, finding{rule: dialect, file: name}); got != want {
			t.Errorf("entry(%s) = %q, want %q", name, got, want)
		}
	}
	if got := missingFolders(testenv.Tree(t), "labels/README.md", "| mcs | x |\n"); len(got) == 0 ||
		slices.Contains(got, "no table has the folder mcs") {
		t.Errorf("missing folders of a table with mcs alone = %q", got)
	}
}
