// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/suites"
)

var (
	update  = flag.Bool("update", false, "write what the suite gave into expected.tsv, for the runtime that it ran with")
	pattern = flag.String("suite.run", "", "run only the suite's cases that match, without comparing")
)

const expected = "expected.tsv"

// Left out of the suite, by reason: the internet or an old release; a containerd, a runtime or a
// network plugin that is built to fail, a containerd of the case's own, or NRI; images with more in
// them than busybox; a hundred pods, or a minute and more for one case.
const leftOut = "TestUpgrade|TestIssue10467|TestCRIImagePullTimeout|TestImageLoad|" +
	"TestNri|TestUpdatePodSandboxWithRestart|TestIssue7496|TestSandboxStopWithNilCNIResult|TestPodSandboxController_|" +
	"TestRunPodSandboxWith(SetupCNI|Shim)|" +
	"TestRunPodSandboxAnd|TestContainerdRestartSandboxRecover|TestFailFastWhenConnectShim|TestContainerIOLeak|" +
	"TestSandboxRemoveWithoutIPLeakage|" +
	"TestContainerConsumedStats|TestIssue10598|TestRuntimeHandlerUnpack|TestIssue10244|" +
	"TestReload100Pods|TestContainerDrainExecIO|TestContainerTTYLeak|" +
	"TestOOMEventMonitor|TestRunContainerWithVolatile|TestKillShimPreserves"

// TestEveryDifferenceHasItsReason looks at the list alone.
func TestEveryDifferenceHasItsReason(t *testing.T) { suites.Check(t, expected) }

// TestSuite runs containerd's own CRI suite with cloister and compares each case with expected.tsv.
func TestSuite(t *testing.T) {
	if os.Getenv(class) == "process" {
		t.Skip(class + " says that this run is about plain containers")
	}
	suite(t, cloister, suites.Cloister, string(suites.Cloister))
}

// class names the class that a run of the tests is about.
const class = "CLOISTER_TEST_CLASS"

// TestSuiteProcess runs the suite with class process, of which runc's results are expected, case by
// case.
func TestSuiteProcess(t *testing.T) {
	if os.Getenv(class) != "process" {
		t.Skip(class + " does not say process")
	}
	suite(t, "io.containerd.cloister-process.v2", suites.Runc, "process")
}

// TestSuiteRunc does the same with runc. It is asked for by CLOISTER_PEERS: the peer's results
// change with its version only.
func TestSuiteRunc(t *testing.T) {
	if os.Getenv("CLOISTER_PEERS") == "" {
		t.Skip("CLOISTER_PEERS is not set")
	}
	suite(t, "io.containerd.runc.v2", suites.Runc, string(suites.Runc))
}

// makeSuiteRoot makes the folder by which the suite asks whether the host can map owners. Without
// it those cases are skipped.
func makeSuiteRoot(t *testing.T) {
	t.Helper()
	const root = "/var/lib/containerd-test"
	err := os.Mkdir(root, 0o711)
	if errors.Is(err, os.ErrExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(root) }) // somebody may have put something there
}

func suite(t *testing.T, runtime string, which suites.Column, name string) {
	t.Helper()
	binary := filepath.Join(clients.Need(t, clients.CRISuite, "cri.test"), "cri.test")
	place := host.New(t)
	makeSuiteRoot(t)
	env := suites.ServeImages(t, place)
	b := setup{runtime: runtime, env: env, trusted: true}.start(t, place)
	b.Keep(t) // the suite ends the daemon and waits for the next
	list := filepath.Join(place.Dir, "images.toml")
	text := fmt.Sprintf("alpine = %q\nbusybox = %q\npause = %q\nvolumecopyup = %q\nvolumeownership = %q\n",
		images.AlpineName, images.SuiteBusyboxName, images.PauseName, images.VolumeCopyUpName, images.VolumeOwnerName)
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := suites.Load(t, expected)
	if name == "process" {
		for _, c := range []string{
			"TestKillShimPublishesTaskExitAndDeleteEvents", "TestKillShimPublishesTaskExitAndDeleteEventsForContainer",
			"TestShutdownShimWhenPauseExitsBeforeWorkload",
		} {
			cases.Differ(c, "fail", "looks for the shim's socket under the name that runc's shim gives it")
		}
		for _, c := range []string{"TestContainerStopCancellation", "TestContainerStopSignals"} {
			cases.Differ(c, "any", "stops a shell at once, which may not have set its trap yet; runc's fails too, on a busy host")
		}
	}
	args := []string{
		"-test.v", "-test.timeout", "12m", "-cri-endpoint", "unix://" + b.Address, "-image-list",
		list, "-test.skip", cases.Out(which, leftOut),
	}
	if *pattern != "" {
		args[len(args)-1] = leftOut
		args = append(args, "-test.run", *pattern)
	}
	begin := time.Now()
	got := suites.Suite{
		Name: "crisuite-" + name, Binary: binary, Args: args, Env: append(b.Env, env...),
		Most: 13 * time.Minute,
	}.Run(t, place)
	t.Logf("the suite took %d s", int(time.Since(begin).Seconds()))
	suiteRan.results = map[string]int{}
	for _, result := range got {
		suiteRan.results[result]++
	}
	suiteRan.runc[0], suiteRan.runc[1], suiteRan.runc[2] = cases.Count(suites.Runc)
	switch {
	case *update:
		suites.Save(t, expected, which, got)
	case *pattern != "":
		t.Logf("%v", got)
	default:
		cases.Compare(t, which, got)
	}
}
