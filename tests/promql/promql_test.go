// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const docs = "../../docs"

// TestAlertRules: Prometheus takes the file, with its templates, and each rule asks for metrics and
// labels that there are.
func TestAlertRules(t *testing.T) {
	p, known, rules := parser.NewParser(parser.Options{}), documented(t), readRules(t)
	for _, rule := range rules {
		asks(t, p, known, "alert "+rule.Alert, rule.Expr)
	}
	if len(rules) < 6 {
		t.Errorf("%d rules, want at least 6", len(rules))
	}
}

// readRules reads the alert rules as Prometheus does.
func readRules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(filepath.Join(docs, "metrics", "alerts.yml"), false, model.LegacyValidation, p, slog.Default())
	for _, err := range errs {
		t.Error(err)
	}
	var rules []rulefmt.Rule
	for _, group := range groups.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// TestDashboard: Prometheus understands what each panel asks for, once Grafana has filled in its
// variables.
func TestDashboard(t *testing.T) {
	board, p, known := readDashboard(t), parser.NewParser(parser.Options{}), documented(t)
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			given := asks(t, p, known, "panel "+panel.Title, filled(target.Expr))
			for _, name := range named(target.LegendFormat) {
				if !slices.Contains(given, name) {
					t.Errorf("panel %s: the legend %q has the label %q; the series have %q", panel.Title, target.LegendFormat, name, given)
				}
			}
		}
	}
}

// asks parses an expression and looks up its metrics and labels. It gives the labels that the
// expression groups by.
func asks(t *testing.T, p parser.Parser, known map[string][]string, who, expression string) []string {
	t.Helper()
	tree, err := p.ParseExpr(expression)
	if err != nil {
		t.Errorf("%s: %v", who, err)
		return nil
	}
	var have, want, grouped []string
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			labels, ok := labelsOf(known, n.Name)
			if !ok {
				t.Errorf("%s asks for %s, which is no metric of docs/metrics.md", who, n.Name)
			}
			have = append(have, labels...)
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel {
					want = append(want, m.Name)
				}
			}
		case *parser.AggregateExpr:
			want, grouped = append(want, n.Grouping...), append(grouped, n.Grouping...)
		}
		return nil
	})
	for _, name := range want {
		if !slices.Contains(have, name) {
			t.Errorf("%s asks for the label %q; its metrics have %q", who, name, have)
		}
	}
	return grouped
}

// labelsOf are a metric's labels, and those that Prometheus adds.
func labelsOf(known map[string][]string, name string) ([]string, bool) {
	if labels, ok := known[name]; ok {
		return append([]string{"instance"}, labels...), true
	}
	if of, ok := strings.CutSuffix(name, "_bucket"); ok {
		labels, ok := known[of]
		return append([]string{"instance", "le"}, labels...), ok
	}
	return nil, false
}

// documented reads the page's table of metrics. A test of cmd/cloister compares it with what
// `cloister metrics` prints.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs, "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `cloister_") {
			continue
		}
		known[strings.Trim(cells[1], " `")] = strings.FieldsFunc(cells[2], func(r rune) bool { return r == ' ' || r == ',' })
	}
	if len(known) < 10 {
		t.Fatalf("docs/metrics.md has %d metrics in its table, want at least 10", len(known))
	}
	return known
}

// named are the labels in a legend: "{{class}} {{state}}".
func named(legend string) []string {
	var names []string
	for part := range strings.SplitSeq(legend, "{{") {
		if name, _, ok := strings.Cut(part, "}}"); ok {
			names = append(names, name)
		}
	}
	return names
}
