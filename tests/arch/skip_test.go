// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestNoSkipForTime wants no test to skip because time has passed or will not suffice: a test that
// does not run is the runner's to decide, which says so at the end.
func TestNoSkipForTime(t *testing.T) {
	for _, f := range files(t) {
		if !strings.Contains(string(f.source), ".Skip") {
			continue
		}
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, f.path, f.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range timedSkips(syntax) {
			t.Errorf("%s: a test skips for lack of time", set.Position(at))
		}
	}
}

// timedSkips lists the skips below a condition on time.
func timedSkips(syntax *ast.File) []token.Pos {
	var found []token.Pos
	ast.Inspect(syntax, func(n ast.Node) bool {
		branch, ok := n.(*ast.IfStmt)
		clock := []string{"Since", "Until", "Now", "Deadline", "Elapsed"}
		if ok && (calls(branch.Cond, clock...) || calls(branch.Init, clock...)) && calls(branch.Body, "Skip", "Skipf", "SkipNow") {
			found = append(found, branch.Pos())
		}
		return true
	})
	return found
}

// calls tells whether a method or function of one of names is called below n.
func calls(n ast.Node, names ...string) bool {
	found := false
	if n == nil || n == ast.Stmt(nil) {
		return false
	}
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if selector, ok := call.Fun.(*ast.SelectorExpr); ok {
				for _, name := range names {
					found = found || selector.Sel.Name == name
				}
			}
		}
		return !found
	})
	return found
}

func TestTimedSkips(t *testing.T) {
	tests := []struct {
		name, body string
		want       int
	}{
		{"late", `if took := time.Since(begun); took > late { t.Skipf("%s are gone", took) }`, 1},
		{"in the condition", `if time.Since(begun) > late { t.Skip("late") }`, 1},
		{"deadline", `if d, ok := t.Deadline(); ok && d.Before(end) { t.SkipNow() }`, 1},
		{"a need", `if os.Getuid() != 0 { t.Skip("needs root") }`, 0},
		{"time without a skip", `if time.Since(begun) > late { t.Fatal("late") }`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			syntax, err := parser.ParseFile(token.NewFileSet(), "x_test.go", "package x\nfunc TestX(t *testing.T) {\n"+tt.body+"\n}", 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(timedSkips(syntax)); got != tt.want {
				t.Errorf("%d skips found, want %d", got, tt.want)
			}
		})
	}
}
