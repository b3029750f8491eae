// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// total counts the cases, for the closing line.
var total struct{ passed, failed, skipped atomic.Int32 }

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Printf("k8s: %d passed, %d failed, %d skipped\n", total.passed.Load(), total.failed.Load(), total.skipped.Load())
	os.Exit(code)
}

// cases are the tests that share the cluster, two at a time.
var cases = []struct {
	name string
	run  func(*testing.T, *space)
}{
	{"batched", batched},
	{"overhead", overhead},
	{"shared-volume", sharedVolume},
	{"partly-limited", partlyLimited},
	{"debug", debug},
	{"home", home},
	{"resize", resize},
	{"top", top},
	{"summary", summary},
	{"refused", refused},
	{"side-by-side", sideBySide},
	{"rolled", rolled},
	{"projected", projected},
	{"sized", sized},
	{"persistent", persistent},
	{"probed", probed},
	{"ended", ended},
	{"crashing", crashing},
	{"stopped", stopped},
	{"staged", staged},
	{"streams", streams},
	{"restricted", restricted},
	{"userns", userns},
}

// TestCluster installs cloister on a cluster's node, upgrades containerd there, runs the cases,
// restarts the node's programs and the node, upgrades cloister and takes it back.
func TestCluster(t *testing.T) {
	c := newCluster(t)
	if !t.Run("install", counted(c.install)) {
		return
	}
	t.Run("containerd", counted(c.upgradeContainerd))
	t.Run("case", func(t *testing.T) { // ends when all of its parallel ones have
		for _, each := range cases {
			t.Run(each.name, func(t *testing.T) {
				t.Parallel()
				t.Cleanup(func() { count(t) }) // after what takes the case back
				begin := time.Now()
				each.run(t, c.space(t, each.name))
				t.Logf("took %d s", int(time.Since(begin).Seconds()))
			})
		}
	})
	t.Run("restarts", counted(c.restarts))
	t.Run("drained", counted(c.drained))
	t.Run("rebooted", counted(c.rebooted))
	t.Run("upgrade", counted(c.upgrade))
	t.Run("remove", counted(c.remove))
}

// counted counts a test.
func counted(f func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		t.Cleanup(func() { count(t) })
		f(t)
	}
}

func count(t *testing.T) {
	t.Helper()
	switch {
	case t.Failed():
		total.failed.Add(1)
	case t.Skipped():
		total.skipped.Add(1)
	default:
		total.passed.Add(1)
	}
}
