// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/clients"
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
	<-c.programs["kubelet"].done
	c.startKubelet(t)
}

// drained: a drained node has no pods of cloister, and no sandbox; later it takes new ones.
func (c *cluster) drained(t *testing.T) {
	s := c.space(t, "drained")
	s.sleeper(t, "leaving")
	s.must(t, "drain", nodeName, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m")
	c.noSandboxes(t, "the drained node")
	s.must(t, "uncordon", nodeName)
	s.sleeper(t, "coming")
}

// upgradeContainerd: what runs goes on under the next containerd, and ends by it.
func (c *cluster) upgradeContainerd(t *testing.T) {
	s := c.space(t, "containerd")
	s.sleepers(t)
	// It says "containerd github.com/containerd/containerd/v2 VERSION".
	version := func() string { return strings.Fields(c.Place.Run(t, c.path("programs/containerd"), "--version"))[2] }
	before, started := version(), map[string]string{}
	for _, pod := range classes {
		started[pod] = s.field(t, "pod/"+pod, ".status.containerStatuses[0].state.running.startedAt")
		s.exec(t, pod, "echo here >/tmp/f")
	}
	c.useContainerd(t, clients.Containerd)
	c.Place.Run(t, "bash", c.path("restart.sh"))
	t.Logf("from %s to %s", before, version())
	s.awaitField(t, "node/"+nodeName, ".status.nodeInfo.containerRuntimeVersion", "containerd://"+version())
	for _, pod := range classes {
		s.await(t, "exec in "+pod, func() string {
			if got, err := s.tryExec(t, pod, "cat /tmp/f"); err != nil || got != "here\n" {
				return fmt.Sprintf("%q, %v", got, err)
			}
			return ""
		})
		if got := s.must(t, "logs", pod); got != "begun\n" {
			t.Errorf("log of %s = %q", pod, got)
		}
		now := s.field(t, "pod/"+pod, ".status.containerStatuses[0].state.running.startedAt")
		if count := s.field(t, "pod/"+pod, ".status.containerStatuses[0].restartCount"); now != started[pod] || count != "0" {
			t.Errorf("%s: started at %s, before at %s, restarted %s times", pod, now, started[pod], count)
		}
	}
	s.must(t, append([]string{"delete", "pod"}, classes...)...)
	c.noSandboxes(t, "deleted pods from before")
}

// noSandboxes waits until the node has none.
func (c *cluster) noSandboxes(t *testing.T, of string) {
	t.Helper()
	if wrong := host.Await(host.Patience, func() string {
		return c.Place.Run(t, "/usr/local/bin/cloister", "ps", "--all", "--quiet")
	}); wrong != "" {
		t.Errorf("sandboxes of %s: %s", of, wrong)
	}
}

// rebooted: after a reboot of the node its pods run again, with new containers and what their
// folders on disk had, as with runc. Nothing is kept of the sandboxes from before but the
// templates, which the new ones start from.
func (c *cluster) rebooted(t *testing.T) {
	s := c.space(t, "rebooted")
	s.sleepers(t)
	c.awaitTemplate(t)
	for _, pod := range classes {
		s.exec(t, pod, "echo here >/v/f; sync")
	}
	c.reboot(t)
	for _, pod := range classes {
		s.awaitField(t, "pod/"+pod, ".status.containerStatuses[0].restartCount", "1")
		s.ready(t, pod)
		if got := s.exec(t, pod, "cat /v/f"); got != "here\n" {
			t.Errorf("%s finds %q on its disk", pod, got)
		}
	}
	for _, pod := range classes {
		const last = ".status.containerStatuses[0].lastState.terminated"
		for _, field := range []string{last + ".reason", last + ".exitCode"} {
			if got, want := s.field(t, "pod/"+pod, field), s.field(t, "pod/plain", field); got != want {
				t.Errorf("%s of %s = %q, want %q as with runc", field, pod, got, want)
			}
		}
	}
	if start := c.guests(t, "{{.start}}"); !strings.HasPrefix(start, "template ") || strings.Count(start, "\n") != 1 {
		t.Errorf("guests after the reboot were started from %q, want one, from a template", start)
	}
	if events := s.must(t, "get", "events", "--all-namespaces", "--field-selector=reason=Rebooted"); !strings.Contains(events, nodeName) {
		t.Errorf("the kubelet saw no reboot: %s", events)
	}
	s.must(t, append([]string{"delete", "pod"}, classes...)...)
	c.noSandboxes(t, "deleted pods")
	c.Place.Run(t, "/usr/local/bin/cloister", "gc")
	if left := c.Place.Run(t, "sh", "-c", leftOnDisk); left != "" {
		t.Errorf("left on disk of sandboxes or the earlier boot:\n%s", left)
	}
	(&space{c, "cloister"}).rollout(t, "daemonset/cloister-node")
}

// awaitTemplate waits for a template that fits the one guest of the node. Its start, or that of a
// pod before it, has asked for one.
func (c *cluster) awaitTemplate(t *testing.T) {
	t.Helper()
	size := strings.TrimSpace(c.guests(t, "{{.guestMiB}}"))
	if wrong := host.Await(host.Patience, func() string {
		list := c.Place.Run(t, "/usr/local/bin/cloister", "template", "list", "--output", "{{.manifest.key.memoryMiB}}")
		if !slices.Contains(strings.Fields(list), size) {
			return fmt.Sprintf("templates of %q MiB, want one of %s", list, size)
		}
		return ""
	}); wrong != "" {
		t.Error(wrong)
	}
}

// guests prints what a Go template says of each guest of a pod.
func (c *cluster) guests(t *testing.T, form string) string {
	t.Helper()
	return c.Place.Run(t, "/usr/local/bin/cloister", "ps", "--filter", "class=vm", "--filter", "namespace=k8s.io", "--output", form)
}

// leftOnDisk lists what cloister keeps on disk for sandboxes and for other boots than this one.
// Drafts of templates are listed, and templates are not.
const leftOnDisk = `find /var/lib/cloister \( -type f -o -name '*-*-*-*-*' \) ! -name lock ! -path '*/locks/*' \
	! -path '*/templates/[0-9a-f][0-9a-f]*/*' ! -name digests.json \
	! -name verified.json ! -name "$(cat /proc/sys/kernel/random/boot_id)"`

// reboot ends all that runs on the node, the control plane too, and starts it from what is on disk.
func (c *cluster) reboot(t *testing.T) {
	t.Helper()
	c.Place.Reboot(t)
	for _, p := range c.programs {
		<-p.done
	}
	for _, top := range hierarchies() {
		removeCgroups(t, filepath.Join(top, c.cgroups))
		makeCgroup(t, top, c.cgroups)
	}
	c.settle(t, c.Place)
	c.Keep(t)
	c.startPrograms(t)
}
