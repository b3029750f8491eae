// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// Suite is a test binary that is run in a place.
type Suite struct {
	Name   string // of its log, in build/log
	Binary string
	Dir    string // it runs in; empty: the place's own
	Args   []string
	Env    []string
	Most   time.Duration
}

// Run runs a suite to its end and gives the result of each of its top-level cases.
func (s Suite) Run(t testing.TB, p *host.Place) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.Most)
	defer cancel()
	dir := filepath.Join(testenv.Tree(t), "build", "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, s.Name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var out bytes.Buffer
	cmd := p.Command(ctx, s.Binary, s.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = cmp.Or(s.Dir, p.Dir), s.Env, io.MultiWriter(&out, log), log
	err = cmd.Run() // its exit code says less than its cases do
	got := results(&out)
	if len(got) == 0 {
		t.Fatalf("the suite ran no case (%v): see %s", err, log.Name())
	}
	return got
}

var caseLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (Test\S+) \(`)

// results reads what a verbose test binary says of its top-level cases; one that began and said no
// more has failed.
func results(out io.Reader) map[string]string {
	found := map[string]string{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := caseLine.FindStringSubmatch(line); m != nil {
			found[m[2]] = strings.ToLower(m[1])
		}
		if name, ok := strings.CutPrefix(line, "=== RUN   "); ok && !strings.Contains(name, "/") && found[name] == "" {
			found[name] = "fail"
		}
	}
	return found
}

// ServeImages has a registry answer in the place for the images that suites pull, and gives the
// environment for it.
func ServeImages(t testing.TB, p *host.Place) []string {
	t.Helper()
	set, err := images.Set(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	registry, err := images.Serve(t.Context(), p.Listen(t, "127.0.0.1:443"), set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	ca := filepath.Join(p.Dir, "ca.pem")
	if err := os.WriteFile(ca, registry.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	p.AddHosts(t, images.Hosts("127.0.0.1"))
	return []string{"SSL_CERT_FILE=" + ca}
}
