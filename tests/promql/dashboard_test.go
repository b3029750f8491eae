// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dashboard is what the tests read of docs/metrics/dashboard.json.
type dashboard struct {
	Title  string
	Panels []panel
}

// panel is one graph. Its place is in Grafana's grid of 24 columns.
type panel struct {
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr, LegendFormat string }

	FieldConfig struct {
		Defaults struct {
			Unit   string
			Custom struct {
				FillOpacity       float64
				Stacking          struct{ Mode string }
				ScaleDistribution struct{ Type string }
			}
		}
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs, "metrics", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board dashboard
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	return board
}

// filled gives an expression as Grafana sends it, with its variables filled in. The rate interval
// is Grafana's for a graph in which each scrape has its point: four times that of the scrapes.
func filled(expression string) string {
	return strings.NewReplacer("$instance", "node1|node2", "$__rate_interval", "1m").Replace(expression)
}
