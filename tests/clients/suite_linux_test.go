// SPDX-License-Identifier: Apache-2.0

package clients_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

var (
	update  = flag.Bool("update", false, "write what the suite gave into expected.tsv, for the runtime that it ran with")
	pattern = flag.String("suite.run", "", "run only the suite's cases that match, without comparing")
)

// Left out of the suite, by the suite's own -test.skip: what needs images of the internet, and what takes long and says
// nothing about a runtime.
const leftOut = "Fuzz|Benchmark|Convert|TestImagePull|Transfer|TestBindLowPortNonOpt|TestUserNamespaces|TestLeaseResources|TestExportAllCases|TestIssue9103|TestIssue10589"

// TestClientSuite runs containerd's own client suite with cloister and compares each case with expected.tsv.
func TestClientSuite(t *testing.T) { suite(t, "io.containerd.cloister.v2", column("cloister")) }

// TestClientSuiteRunc does the same with runc. It is asked for by CLOISTER_PEERS: the peer's results change with its version only.
func TestClientSuiteRunc(t *testing.T) {
	if os.Getenv("CLOISTER_PEERS") == "" {
		t.Skip("CLOISTER_PEERS is not set")
	}
	suite(t, "io.containerd.runc.v2", column("runc"))
}

func suite(t *testing.T, runtime string, which column) {
	t.Helper()
	binary := filepath.Join(clients.Need(t, clients.Suite, "client.test"), "client.test")
	bin := clients.Need(t, clients.Containerd, "containerd")
	runc := clients.Need(t, clients.Runc, "runc")
	if which == "cloister" {
		testenv.NeedShim(t)
		testenv.NeedGuest(t)
		testenv.NeedQEMU(t)
		testenv.NeedVirtiofsd(t)
	}
	p := host.New(t)
	env := serveImages(t, p)
	env = append(env, "TEST_RUNTIME="+runtime, "HOME="+p.Dir, "TMPDIR=/tmp", "CLOISTER_CONFIG="+p.WriteCloisterConfig(t, ""),
		"PATH="+strings.Join([]string{testenv.Build(t), bin, runc, "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":"))
	// The suite keeps its state under fixed names.
	p.Run(t, "sh", "-c", "mkdir -p /var/lib/containerd-test "+p.Dir+"/suite && mount --bind "+p.Dir+"/suite /var/lib/containerd-test")

	args := []string{"-test.v", "-test.root", "-no-criu", "-test.timeout", "15m", "-test.skip", skipped(load(t), which)}
	if *pattern != "" {
		args[len(args)-1] = leftOut
		args = append(args, "-test.run", *pattern)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 16*time.Minute)
	defer cancel()
	log, err := os.Create(filepath.Join(logFolder(t), "clientsuite-"+string(which)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var out bytes.Buffer
	cmd := p.Command(ctx, binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.Dir, env, io.MultiWriter(&out, log), log
	begin := time.Now()
	err = cmd.Run() // its exit code says less than its cases do
	got := results(&out)
	if len(got) == 0 {
		t.Fatalf("the suite ran no case (%v): see %s", err, log.Name())
	}
	counts := map[string]int{}
	for _, result := range got {
		counts[result]++
	}
	fmt.Printf("client suite, %s: %d pass, %d fail, %d skip, %d s\n", which, counts["pass"], counts["fail"], counts["skip"], int(time.Since(begin).Seconds()))
	switch {
	case *pattern != "":
		t.Logf("%v", got)
	case *update:
		save(t, which, got)
	default:
		compare(t, which, got)
	}
}

// skipped gives the suite's own pattern of what is not run: for everybody, and what the list leaves out for this runtime.
func skipped(all map[string]expected, which column) string {
	patterns := []string{leftOut}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].result(which) == "out" {
			patterns = append(patterns, "^"+name+"$")
		}
	}
	return strings.Join(patterns, "|")
}

// serveImages has a registry answer in the place for the images that the suite pulls, and gives the environment for it.
func serveImages(t *testing.T, p *host.Place) []string {
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

func logFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(testenv.Tree(t), "build", "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var caseLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (Test\S+) \(`)

// results reads what a verbose test binary says of its top-level cases; one that began and said no more has failed.
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

func compare(t *testing.T, which column, got map[string]string) {
	t.Helper()
	want := load(t)
	for _, name := range slices.Sorted(maps.Keys(got)) {
		c, known := want[name]
		switch expected := c.result(which); {
		case !known:
			t.Errorf("%s: %s, and is not in expected.tsv", name, got[name])
		case expected == "any":
		case expected == got[name]:
		default:
			t.Errorf("%s: %s, expected %s (%s)", name, got[name], expected, c.reason)
		}
	}
	for name, c := range want {
		if got[name] == "" && c.result(which) != "out" {
			t.Errorf("%s is in expected.tsv and did not run", name)
		}
	}
}
