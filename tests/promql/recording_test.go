// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// recording has the samples of a run, a scrape at each interval. `make metrics-recording` makes it.
const (
	recording      = "testdata/recording.txt"
	scrapeInterval = 15 * time.Second
)

// samples are series in memory that Prometheus' engine evaluates expressions over. Prometheus' own
// database would bring the clients of three clouds with it.
type samples struct {
	storage.MockQuerier

	series     []storage.Series
	begin, end time.Time
}

// readSamples reads series in the language of Prometheus' own tests. The first scrape is at begin.
func readSamples(t *testing.T, text string, begin time.Time) *samples {
	t.Helper()
	s := &samples{begin: begin, end: begin}
	p := parser.NewParser(parser.Options{})
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "load ") {
			continue
		}
		names, values, err := p.ParseSeriesDesc(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var found []chunks.Sample
		for i, v := range values {
			at := begin.Add(time.Duration(i) * scrapeInterval)
			if !v.Omitted {
				found = append(found, sample{at: at.UnixMilli(), value: v.Value})
			}
			if at.After(s.end) {
				s.end = at
			}
		}
		s.series = append(s.series, storage.NewListSeries(names, found))
	}
	slices.SortFunc(s.series, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return s
}

// readRecording reads the recording, with the time at which it was made.
func readRecording(t *testing.T) *samples {
	t.Helper()
	text, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	s := readSamples(t, string(text), time.Unix(0, 0))
	taken := s.ask(t, "the time of the first scrape", "cloister_scrape_timestamp_seconds")
	if len(taken) != 1 || len(taken[0].Floats) < 2 {
		t.Fatalf("%s has %d series of scrape times, want 1 with some points", recording, len(taken))
	}
	return readSamples(t, string(text), time.Unix(int64(taken[0].Floats[0].F), 0).UTC())
}

// ask evaluates an expression at each scrape, with Prometheus' engine.
func (s *samples) ask(t *testing.T, who, expression string) promql.Matrix {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	query, err := engine.NewRangeQuery(t.Context(), s, nil, expression, s.begin, s.end, scrapeInterval)
	if err != nil {
		t.Errorf("%s: %v", who, err)
		return nil
	}
	result := query.Exec(t.Context())
	for _, warning := range result.Warnings.AsErrors() {
		t.Errorf("%s: %s: %v", who, expression, warning)
	}
	matrix, err := result.Matrix()
	if err != nil {
		t.Errorf("%s: %s: %v", who, expression, err)
	}
	return matrix
}

// Querier is storage.Queryable's. The engine takes no sample from outside of the time that it asks
// for.
func (s *samples) Querier(_, _ int64) (storage.Querier, error) { return s, nil }

// Select is storage.Querier's. The series are in the order of their labels.
func (s *samples) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &seriesSet{SeriesSet: storage.EmptySeriesSet()}
	for _, series := range s.series {
		misses := func(m *labels.Matcher) bool { return !m.Matches(series.Labels().Get(m.Name)) }
		if !slices.ContainsFunc(matchers, misses) {
			found.left = append(found.left, series)
		}
	}
	return found
}

// seriesSet gives series one after the other. The embedded one has no error and no warning.
type seriesSet struct {
	storage.SeriesSet

	at   storage.Series
	left []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.left) == 0 {
		return false
	}
	s.at, s.left = s.left[0], s.left[1:]
	return true
}

func (s *seriesSet) At() storage.Series { return s.at }

// sample is one value at a time in milliseconds.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
