// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"cloister/sandbox/statedir"
	"cloister/sandbox/tally"
	"cloister/sys"
	"cloister/tests/testenv"
)

// families parses metrics as Prometheus does.
func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return all
}

// value is that of the metric with the labels NAME=VALUE; -1 if there is none.
func value(all map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	for _, m := range all[name].GetMetric() {
		var have []string
		for _, l := range m.GetLabel() {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if strings.Join(have, " ") == strings.Join(labels, " ") {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

func series(all map[string]*dto.MetricFamily) (n int) {
	for _, f := range all {
		n += len(f.GetMetric())
	}
	return n
}

func TestMetrics(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	s.plant(t, "default", "two", sys.Process{PID: 1 << 22, Start: 1}, nil)
	s.plant(t, "default", "three", alive(t), func(r *statedir.Record) { r.Effects, r.Facts["class"] = nil, "a name that is no class" })
	plain := func(r *statedir.Record) { r.Facts["class"], r.Effects[1].Kind = "process", statedir.KindContainer }
	s.plant(t, "k8s", "four", alive(t), plain)
	s.plant(t, "k8s", "five", sys.Process{PID: 1 << 22, Start: 1}, plain)
	if err := tally.Add(s.config.State, func(c *tally.Counts) {
		c.Started("vm")
		c.Took("kernel", 120)
		c.Took("kernel", 90_000)
		c.Failed("qemu", fmt.Errorf("start: %w", context.DeadlineExceeded))
		c.Leaks = 3
	}); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.command(t, "metrics")
	if err != nil {
		t.Fatal(err)
	}
	all := families(t, out)
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"cloister_sandboxes", []string{"class=vm", "state=running"}, 1},
		{"cloister_sandboxes", []string{"class=vm", "state=dead"}, 1},
		{"cloister_sandboxes", []string{"class=vm", "state=starting"}, 1},
		{"cloister_sandboxes", []string{"class=process", "state=running"}, 1},
		{"cloister_sandboxes", []string{"class=process", "state=dead"}, 1},
		{"cloister_sandboxes", []string{"class=process", "state=ended"}, 0},
		{"cloister_starts_total", []string{"class=vm"}, 1},
		{"cloister_start_failures_total", []string{"phase=qemu", "reason=timeout"}, 1},
		{"cloister_leaks_found_total", nil, 3},
		{"cloister_label_clashes", nil, 0},
		{"cloister_scrape_success", []string{"source=records"}, 1},
		{"cloister_scrape_success", []string{"source=counts"}, 1},
	} {
		if got := value(all, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s%v = %v, want %v\n%s", tt.name, tt.labels, got, tt.want, out)
		}
	}
	h := all["cloister_start_phase_duration_seconds"].GetMetric()[0].GetHistogram()
	last := h.GetBucket()[len(tally.Histogram{}.Buckets)-1]
	if h.GetSampleCount() != 2 || h.GetSampleSum() != 90.12 || last.GetUpperBound() != 60 || last.GetCumulativeCount() != 1 {
		t.Errorf("histogram of kernel: %v", h)
	}
	if value(all, "cloister_memory_bytes", "part=qemu") < 1 {
		t.Errorf("no memory of a running sandbox:\n%s", out)
	}
}

// TestMetricsOfIsolation: levels that clash and denials in the log are counted, by verdict.
func TestMetricsOfIsolation(t *testing.T) {
	s := crowdedHost(t)
	const qemu = `type=AVC msg=audit(1795330000.123:%d): avc:  denied  { read } for  pid=100 comm="qemu-system-x86" ino=77 ` +
		`scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 tcontext=system_u:object_r:svirt_image_t:s0:c5,c6 tclass=file ` + "\n"
	const server = `type=AVC msg=audit(1795330002.123:3): avc:  denied  { read } for  pid=101 comm="virtiofsd" path="/srv/data" ino=78 ` +
		`scontext=system_u:system_r:cloister_virtiofsd_t:s0:c1,c2 tcontext=system_u:object_r:var_t:s0 tclass=dir ` + "\n"
	file := filepath.Join(s.root, auditLog)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(fmt.Sprintf(qemu, 1)+fmt.Sprintf(qemu, 2)+server), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(s))
	list, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, family := range list {
		all[family.GetName()] = family
	}
	for _, tt := range []struct {
		name, label string
		want        float64
	}{
		{"cloister_scrape_success", "source=labels", 1},
		{"cloister_scrape_success", "source=denials", 1},
		{"cloister_denials_logged", "verdict=attack", 2},
		{"cloister_denials_logged", "verdict=mistake", 1},
		{"cloister_denials_logged", "verdict=harmless", 0},
	} {
		if got := value(all, tt.name, tt.label); got != tt.want {
			t.Errorf("%s{%s} = %v, want %v", tt.name, tt.label, got, tt.want)
		}
	}
	if got := value(all, "cloister_label_clashes"); got != 2 {
		t.Errorf("cloister_label_clashes = %v, want the two of TestLabelsGolden", got)
	}
}

// TestMetricsAreBounded: a hundred sandboxes more add no series.
func TestMetricsAreBounded(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	before, _, err := s.command(t, "metrics")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		s.plant(t, fmt.Sprint("ns", i%10), fmt.Sprint("box", i), alive(t), nil)
	}
	after, _, err := s.command(t, "metrics")
	if err != nil {
		t.Fatal(err)
	}
	if was, is := series(families(t, before)), series(families(t, after)); is != was || was < 10 {
		t.Errorf("%d series with 101 sandboxes, %d with one", is, was)
	}
}

// TestMetricsOfDamagedCounts: a damaged source costs its own metrics alone and is reported.
func TestMetricsOfDamagedCounts(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	if err := os.WriteFile(filepath.Join(s.config.State, ".tally.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.command(t, "metrics")
	if err != nil {
		t.Fatal(err)
	}
	all := families(t, out)
	if value(all, "cloister_scrape_success", "source=counts") != 0 || value(all, "cloister_sandboxes", "class=vm", "state=running") != 1 {
		t.Errorf("metrics with damaged counts:\n%s", out)
	}
}

func TestMetricsTextfile(t *testing.T) {
	s := fakeSite(t, nil)
	file := filepath.Join(t.TempDir(), "cloister.prom")
	for range 2 {
		if out, _, err := s.command(t, "metrics", "--textfile", file); err != nil || out != "" {
			t.Fatalf("metrics --textfile: %q, %v", out, err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if families(t, string(text))["cloister_build_info"] == nil {
		t.Errorf("the file:\n%s", text)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o644 {
		t.Errorf("mode %v, %v: node_exporter runs as another user", st.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("%d files are in the folder, want 1: %v", len(entries), err)
	}
	if _, _, err := s.command(t, "metrics", "--textfile", file+".txt"); !errors.Is(err, errUsage) {
		t.Errorf("a name that node_exporter ignores: %v, want a usage error", err)
	}
}

func TestMetricsListensOnlyLocally(t *testing.T) {
	s := fakeSite(t, nil)
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80", "localhost", "example.com:80"} {
		if _, _, err := s.command(t, "metrics", "--listen", address); !errors.Is(err, errUsage) {
			t.Errorf("--listen %s: %v, want a usage error", address, err)
		}
	}
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	if err := os.WriteFile(socket, []byte("a file of somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.command(t, "metrics", "--listen", "unix:"+socket); err == nil {
		t.Error("--listen replaced a file")
	}
	if text, err := os.ReadFile(socket); err != nil || len(text) == 0 {
		t.Errorf("the file: %q, %v", text, err)
	}
}

func TestMetricsListen(t *testing.T) {
	s := fakeSite(t, nil)
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	for _, address := range []string{"unix:" + socket, "127.0.0.1:0"} {
		ctx, cancel := context.WithCancel(t.Context())
		listener, err := listenLocally(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		registry, err := s.registry()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- serveMetrics(ctx, listener, registry) }()
		at := listener.Addr()
		client := http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, at.Network(), at.String())
			},
		}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://host/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil || families(t, string(text))["cloister_sandboxes"] == nil {
			t.Errorf("%s: %v\n%s", address, err, text)
		}
		if at.Network() == "unix" {
			if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o660 {
				t.Errorf("the socket: %v, %v", st.Mode(), err)
			}
			if _, err := listenLocally(ctx, address); err == nil {
				t.Error("a second listener took the socket of the first")
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: the server ended with %v", address, err)
		}
	}
}

// TestDocumentedMetricsExist: the page, the alert rules and the dashboard name only metrics that
// are printed, and the page names all of them with their labels.
func TestDocumentedMetricsExist(t *testing.T) {
	known, rows := map[string]bool{}, map[string]string{}
	described := make(chan *prometheus.Desc, 100)
	newCollector(nil).Describe(described)
	close(described)
	for d := range described {
		name := metricName.FindString(d.String())
		known[name] = true
		rows[name] = "\n| `" + name + "` |"
		if labels := labelNames.FindStringSubmatch(d.String()); labels[1] != "" {
			rows[name] += " " + strings.ReplaceAll(labels[1], ",", ", ")
		}
		rows[name] += " |"
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, file := range []string{"metrics.md", "metrics/alerts.yml", "metrics/dashboard.json"} {
		text, err := os.ReadFile(filepath.Join(testenv.Tree(t), "docs", file))
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{}
		for _, name := range metricName.FindAllString(string(text), -1) {
			named[suffix.ReplaceAllString(name, "")] = true
		}
		for name := range named {
			if !known[name] {
				t.Errorf("%s names %s, which is no metric", file, name)
			}
		}
		for name := range known {
			if file == "metrics.md" && (!named[name] || !strings.Contains(string(text), rows[name])) {
				t.Errorf("%s has no row %q", file, rows[name])
			}
		}
	}
}

// TestDashboardIsDocumented: the page lists each panel, each panel asks for something and has a
// place of its own.
func TestDashboardIsDocumented(t *testing.T) {
	docs := filepath.Join(testenv.Tree(t), "docs")
	page, err := os.ReadFile(filepath.Join(docs, "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(docs, "metrics", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string `json:"title"`
			GridPos struct {
				X int `json:"x"`
				Y int `json:"y"`
				W int `json:"w"`
				H int `json:"h"`
			} `json:"gridPos"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	places := map[[2]int]string{}
	for _, p := range board.Panels {
		if !strings.Contains(string(page), "\n| "+p.Title+" | ") {
			t.Errorf("docs/metrics.md does not list the panel %q", p.Title)
		}
		if len(p.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := places[[2]int{x, y}]; other != "" {
					t.Fatalf("the panels %q and %q overlap", other, p.Title)
				}
				places[[2]int{x, y}] = p.Title
			}
		}
	}
	if len(board.Panels) < 8 {
		t.Errorf("%d panels, want at least 8", len(board.Panels))
	}
}

// labelNames finds the labels in a metric's description.
var labelNames = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)

// metricName finds the names of our metrics.
var metricName = regexp.MustCompile(`\bcloister_[a-z_]+[a-z]`)
