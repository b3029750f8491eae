// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
)

// restarts: neither a new kubelet nor a new containerd touches what runs.
func (c *cluster) restarts(t *testing.T) {
	s := c.space(t, "restarts")
	s.sleeper(t, "lasting")
	started := s.field(t, "pod/lasting", ".status.containerStatuses[0].state.running.startedAt")
	s.exec(t, "lasting", "echo here >/tmp/f")
	for _, each := range []struct {
		name    string
		restart func()
	}{
		{"kubelet", func() { c.restartKubelet(t) }},
		{"containerd", func() { c.Place.Run(t, "bash", c.path("restart.sh")) }},
	} {
		each.restart()
		s.await(t, "exec after the restart of "+each.name, func() string {
			got, err := s.tryExec(t, "lasting", "cat /tmp/f")
			if err != nil || got != "here\n" {
				return fmt.Sprintf("%q, %v", got, err)
			}
			return ""
		})
		s.ready(t, "lasting")
		now := s.field(t, "pod/lasting", ".status.containerStatuses[0].state.running.startedAt")
		if count := s.field(t, "pod/lasting", ".status.containerStatuses[0].restartCount"); now != started || count != "0" {
			t.Errorf("after the restart of %s: started at %s, before at %s, restarted %s times", each.name, now, started, count)
		}
	}
}

// restartKubelet ends the kubelet and starts another.
func (c *cluster) restartKubelet(t *testing.T) {
	t.Helper()
	for pid, line := range c.Place.Processes(t) {
		if strings.HasPrefix(line, filepath.Join(c.bin, "kubelet")+" ") {
			c.Place.Run(t, "kill", fmt.Sprint(pid))
		}
	}
	<-c.kubelet.done
	c.kubelet = c.startKubelet(t)
}

// drained: a drained node has no pods of cloister, and no sandbox; later it takes new ones.
func (c *cluster) drained(t *testing.T) {
	s := c.space(t, "drained")
	s.sleeper(t, "leaving")
	s.must(t, "drain", nodeName, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m")
	there := func() string { return c.Place.Run(t, "/usr/local/bin/cloister", "ps", "--all", "--quiet") }
	if wrong := host.Await(host.Patience, there); wrong != "" {
		t.Errorf("sandboxes after the drain: %s", wrong)
	}
	s.must(t, "uncordon", nodeName)
	s.sleeper(t, "coming")
}
