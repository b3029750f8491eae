// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestUpgrade puts containerd 2.4 in the place of Debian's 1.6 while a container runs.
func TestUpgrade(t *testing.T) {
	b := newBed(t, host.Options{Version: host.Distribution})
	log := filepath.Join(b.Place.Dir, "kept.log")
	b.Start(t, "kept", []string{"--log-uri", "file://" + log}, "sh", "-c",
		"echo old; until [ -e /go ]; do sleep 0.1; done; echo new; exec sleep 1000")
	b.Upgrade(t, host.Options{})
	b.AwaitStatus(t, "kept", "RUNNING")
	if out := b.Must(t, "version"); strings.Contains(out, "1.6.") {
		t.Fatalf("the daemon is the old one: %s", out)
	}
	if r := b.Run(t, "task", "exec", "--exec-id", "e", "kept", "sh", "-c", "touch /go; exit 7"); r.Code != 7 {
		t.Errorf("exec after the upgrade = %+v, want exit 7", r)
	}
	if wrong := host.Await(host.Patience, func() string {
		data, err := os.ReadFile(log)
		if string(data) == "old\nnew\n" {
			return ""
		}
		return fmt.Sprint(string(data), err)
	}); wrong != "" {
		t.Errorf("the log is %q, want both lines", wrong)
	}
	if out := b.Must(t, "task", "metrics", "kept"); !strings.Contains(out, "memory") {
		t.Errorf("metrics after the upgrade:\n%s", out)
	}
	b.Must(t, "task", "pause", "kept")
	b.AwaitStatus(t, "kept", "PAUSED")
	b.Must(t, "task", "resume", "kept")
	b.Must(t, "task", "kill", "--signal", "KILL", "kept")
	b.AwaitStatus(t, "kept", "STOPPED")
	if r := b.Run(t, "task", "delete", "kept"); !strings.Contains(r.Stderr, "exit code 137") {
		t.Errorf("task delete = %+v, want exit 137", r)
	}
	b.Must(t, "containers", "delete", "kept")
	b.want(t, "after", "hello", nil, "echo", "hello")
}
