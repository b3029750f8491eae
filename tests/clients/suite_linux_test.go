// SPDX-License-Identifier: Apache-2.0

package clients_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/suites"
	"cloister/tests/testenv"
)

var (
	update  = flag.Bool("update", false, "write what the suite gave into expected.tsv, for the runtime that it ran with")
	pattern = flag.String("suite.run", "", "run only the suite's cases that match, without comparing")
)

const expected = "expected.tsv"

// Left out of the suite, by the suite's own -test.skip: what needs images of the internet, and what
// takes long and says nothing about a runtime.
const leftOut = "Fuzz|Benchmark|Convert|TestImagePull|Transfer|TestBindLowPortNonOpt|TestUserNamespaces|" +
	"TestLeaseResources|TestExportAllCases|TestIssue9103|TestIssue10589"

// TestEveryDifferenceHasItsReason looks at the list alone.
func TestEveryDifferenceHasItsReason(t *testing.T) { suites.Check(t, expected) }

// TestClientSuite runs containerd's own client suite with cloister and compares each case with
// expected.tsv.
func TestClientSuite(t *testing.T) {
	if os.Getenv(class) == "process" {
		t.Skip(class + " says that this run is about plain containers")
	}
	suite(t, "io.containerd.cloister.v2", suites.Cloister, string(suites.Cloister))
}

// class names the class that a run of the tests is about.
const class = "CLOISTER_TEST_CLASS"

// TestClientSuiteProcess runs the suite with class process, of which runc's results are expected,
// case by case.
func TestClientSuiteProcess(t *testing.T) {
	if os.Getenv(class) != "process" {
		t.Skip(class + " does not say process: make test-suites-process")
	}
	testenv.NeedShim(t)
	suite(t, "io.containerd.cloister-process.v2", suites.Runc, "process")
}

// TestClientSuiteRunc does the same with runc. It is asked for by CLOISTER_PEERS: the peer's
// results change with its version only.
func TestClientSuiteRunc(t *testing.T) {
	if os.Getenv("CLOISTER_PEERS") == "" {
		t.Skip("CLOISTER_PEERS is not set")
	}
	suite(t, "io.containerd.runc.v2", suites.Runc, string(suites.Runc))
}

func suite(t *testing.T, runtime string, which suites.Column, name string) {
	t.Helper()
	binary := filepath.Join(clients.Need(t, clients.Suite, "client.test"), "client.test")
	bin := clients.Need(t, clients.Containerd, "containerd")
	runc := clients.Need(t, clients.Runc, "runc")
	if which == suites.Cloister {
		testenv.NeedSandbox(t)
	}
	p := host.New(t)
	env := suites.ServeImages(t, p)
	env = append(env, "TEST_RUNTIME="+runtime, "HOME="+p.Dir, "TMPDIR=/tmp", "CLOISTER_CONFIG="+p.WriteCloisterConfig(t, ""),
		"PATH="+strings.Join([]string{testenv.Build(t), bin, runc, "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":"))
	// The suite keeps its state under fixed names.
	p.Run(t, "sh", "-c", "mkdir -p /var/lib/containerd-test "+p.Dir+"/suite && mount --bind "+p.Dir+"/suite /var/lib/containerd-test")

	list := suites.Load(t, expected)
	if name == "process" {
		list.Differ("TestKillContainerDeletedByRunc", "fail", "deletes the container by runc in runc's own folder, where the shim has none")
	}
	args := []string{"-test.v", "-test.root", "-no-criu", "-test.timeout", "15m", "-test.skip", list.Out(which, leftOut)}
	if *pattern != "" {
		args[len(args)-1] = leftOut
		args = append(args, "-test.run", *pattern)
	}
	begin := time.Now()
	got := suites.Suite{Name: "clientsuite-" + name, Binary: binary, Args: args, Env: env, Most: 16 * time.Minute}.Run(t, p)
	counts := map[string]int{}
	for _, result := range got {
		counts[result]++
	}
	fmt.Printf("client suite, %s: %d pass, %d fail, %d skip, %d s\n", name, counts["pass"], counts["fail"],
		counts["skip"], int(time.Since(begin).Seconds()))
	switch {
	case *pattern != "":
		t.Logf("%v", got)
	case *update:
		suites.Save(t, expected, which, got)
	default:
		list.Compare(t, which, got)
	}
}
