// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

var update = flag.Bool("update", false, "draw docs/metrics.svg again")

// TestPicture evaluates each panel's expressions over the recording, with Prometheus' own engine,
// and compares what it draws with the picture of docs/metrics.md. An expression without data fails.
func TestPicture(t *testing.T) {
	run, board := readRecording(t), readDashboard(t)
	drawn := picture{title: board.Title, begin: run.begin, length: run.end.Sub(run.begin)}
	for _, p := range board.Panels {
		g := graph{panel: p}
		for _, target := range p.Targets {
			found := 0
			for _, s := range run.ask(t, "panel "+p.Title, filled(target.Expr)) {
				if c, ok := curveOf(s, run.begin, target.LegendFormat); ok {
					g.curves = append(g.curves, c)
					found++
				}
			}
			if found == 0 {
				t.Errorf("panel %s: %s has no data in %s", p.Title, target.Expr, recording)
			}
		}
		drawn.graphs = append(drawn.graphs, g)
	}
	if t.Failed() {
		return
	}
	file, text := filepath.Join(docs, "metrics.svg"), drawn.svg()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(file); err != nil || string(have) != text {
		t.Errorf("%s is not what the dashboard and the recording give (%v): make golden", file, err)
	}
}

// curveOf gives a series the name of the legend. Points that are no numbers are left out, such as
// a quantile of no starts; false means that no point is left.
func curveOf(s promql.Series, begin time.Time, legend string) (curve, bool) {
	c := curve{name: legend}
	s.Metric.Range(func(l labels.Label) { c.name = strings.ReplaceAll(c.name, "{{"+l.Name+"}}", l.Value) })
	for _, p := range s.Floats {
		if !math.IsNaN(p.F) {
			c.points = append(c.points, point{at: time.UnixMilli(p.T).Sub(begin), value: p.F})
		}
	}
	return c, len(c.points) > 0
}
