// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
	"cloister/tests/images"
)

// lives does what a kubelet does with the containers of one pod.
func lives(t *testing.T, b *bed, p *pod) {
	t.Helper()
	step(t, "init containers", func(t *testing.T) {
		dir := filepath.Join(b.Place.Dir, "emptydir")
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		volume := func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/volume"}}
		}
		for _, name := range []string{"one", "two"} {
			id := p.start(t, name, volume, "sh", "-c", "echo "+name+" >>/volume/order")
			if s := b.exited(t, id); s.GetExitCode() != 0 {
				t.Errorf("%s ended with %d", name, s.GetExitCode())
			}
		}
		id := p.start(t, "main", volume, "sleep", "1000")
		if got, _ := b.exec(t, id, "cat /volume/order"); got != "one\ntwo\n" {
			t.Errorf("order = %q", got)
		}
		b.drop(t, id)
	})
	step(t, "mounts below read-only volumes", func(t *testing.T) {
		dir := filepath.Join(b.Place.Dir, "readonly")
		b.Place.Run(t, "sh", "-c", `mkdir -p "$1/below" && mount -t tmpfs none "$1/below"`, "sh", dir)
		id := p.start(t, "reader", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{
				{HostPath: dir, ContainerPath: "/ro", Readonly: true},
				{HostPath: dir, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true},
			}
		}, "sleep", "1000")
		script := "for f in /ro/f /rro/f /rro/below/f /ro/below/f; do touch $f 2>/dev/null && echo $f; done"
		if got, _ := b.exec(t, id, script); got != "/ro/below/f\n" {
			t.Errorf("what could be written = %q, want the mount below the volume that is not recursively read-only", got)
		}
		b.drop(t, id)
	})
	step(t, "image volume", func(t *testing.T) {
		id := p.start(t, "model", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{
				ContainerPath: "/model",
				Image:         &runtimeapi.ImageSpec{Image: images.AlpineName}, ImageSubPath: "etc", Readonly: true,
			}}
		}, "sleep", "1000")
		if got, _ := b.exec(t, id, "cat /model/os-release; touch /model/x 2>&1"); !strings.HasPrefix(got, "NAME=\"Alpine Linux\"\n") ||
			!strings.Contains(got, "Read-only") {
			t.Errorf("the image's volume = %q", got)
		}
		b.drop(t, id)
	})
	step(t, "out of memory", func(t *testing.T) {
		id := p.start(t, "greedy", func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
		}, "sh", "-c", "exec tail /dev/zero")
		if s := b.exited(t, id); s.GetExitCode() != 137 || s.GetReason() != "OOMKilled" {
			t.Errorf("the greedy container ended with %d, %q, want 137, OOMKilled", s.GetExitCode(), s.GetReason())
		}
		b.drop(t, id)
	})
	step(t, "update beyond the machine", func(t *testing.T) {
		id := p.start(t, "small", nil, "sleep", "1000")
		_, err := b.cri.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 30},
		})
		// 536870912 is what a machine has for containers without limits, 512 MiB.
		if err == nil || !strings.Contains(err.Error(), "memory") || !strings.Contains(err.Error(), "536870912") {
			t.Errorf("64 GiB for a container = %v, want an error that names the machine's memory", err)
		}
		b.drop(t, id)
	})
	step(t, "privileged", func(t *testing.T) { privileged(t, b) })
}

// drop stops and removes a container.
func (b *bed) drop(t *testing.T, id string) {
	t.Helper()
	if _, err := b.cri.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
		t.Errorf("StopContainer: %v", err)
	}
	if _, err := b.cri.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
}

// privileged is refused while the engine hands the host's devices over, and is privileged in the
// guest when it does not.
func privileged(t *testing.T, b *bed) {
	t.Helper()
	config := func(name string) *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}},
		}
	}
	change := func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Privileged: true}
	}
	p := b.runAs(t, config("devices"), "")
	_, err := p.cri.CreateContainer(t.Context(),
		&runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: p.container("root", change, "true"), SandboxConfig: p.config})
	if err == nil { // the shim is asked at the start
		list, _ := p.cri.ListContainers(t.Context(),
			&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
		_, err = p.cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: list.GetContainers()[0].GetId()})
	}
	if err == nil || !strings.Contains(err.Error(), "privileged_without_host_devices") {
		t.Errorf("a privileged container with the host's devices: %v, want an error that names privileged_without_host_devices", err)
	}
	p.remove(t)
	p = b.runAs(t, config("root"), "privileged")
	id := p.start(t, "root", change, "sleep", "1000")
	if got, code := b.exec(t, id,
		"mount -t tmpfs none /mnt 2>&1 || { mkdir -p /mnt && mount -t tmpfs none /mnt; } && grep -c ' /mnt ' /proc/mounts; "+
			"ls /dev | grep -c kvm"); !strings.HasPrefix(got, "1\n") && !strings.HasSuffix(got, "1\n0\n") {
		t.Errorf("in a privileged container: %q, exit %d", got, code)
	}
	p.remove(t)
}

// TestRestartsLeakNothing has one container of a pod end twenty times: nothing grows on the host.
func TestRestartsLeakNothing(t *testing.T) {
	b := newBed(t, "podsandbox")
	p := b.run(t, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "storm"}})
	again := func(attempt int) {
		config := p.container("crash", nil, "sh", "-c", "echo out; exit 3")
		config.Metadata.Attempt = uint32(attempt)
		answer, err := p.cri.CreateContainer(t.Context(),
			&runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		if err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		if _, err := p.cri.StartContainer(t.Context(),
			&runtimeapi.StartContainerRequest{ContainerId: answer.GetContainerId()}); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		if s := b.exited(t, answer.GetContainerId()); s.GetExitCode() != 3 {
			t.Fatalf("attempt %d ended with %d", attempt, s.GetExitCode())
		}
		if _, err := p.cri.RemoveContainer(t.Context(),
			&runtimeapi.RemoveContainerRequest{ContainerId: answer.GetContainerId()}); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
	}
	again(0) // after this, what is made once exists
	before := b.possessions(t)
	step(t, "twenty restarts", func(t *testing.T) {
		for attempt := 1; attempt <= 20; attempt++ {
			again(attempt)
		}
		if wrong := host.Await(host.Patience, func() string {
			var grown []string
			for what, n := range b.possessions(t) {
				if n > before[what] {
					grown = append(grown, fmt.Sprintf("%s: %d, before %d", what, n, before[what]))
				}
			}
			return strings.Join(grown, "\n")
		}); wrong != "" {
			t.Errorf("grown:\n%s", wrong)
		}
	})
	step(t, "stop and remove after restarts", func(t *testing.T) {
		p.remove(t)
		nothingLeft(t, b)
	})
}

// possessions counts the descriptors and mounts of each process of sandboxes in the place, and
// their folders.
func (b *bed) possessions(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	for pid, line := range b.Place.Processes(t) {
		name := filepath.Base(strings.Fields(line)[0])
		if !strings.HasPrefix(name, "qemu") && !strings.HasPrefix(name, "virtiofsd") && !strings.Contains(name, "shim") {
			continue
		}
		fds, _ := os.ReadDir(b.Place.Path("/proc/" + strconv.Itoa(pid) + "/fd"))
		mounts, _ := os.ReadFile(b.Place.Path("/proc/" + strconv.Itoa(pid) + "/mountinfo"))
		found["processes of "+name]++
		found["descriptors of "+name] += len(fds)
		found["mounts of "+name] += strings.Count(string(mounts), "\n")
		if strings.Contains(name, "shim") {
			folders, _ := filepath.Glob(b.Place.Path(fmt.Sprintf("/proc/%d/root/run/cloister/*/*/share/[cv]/*", pid)))
			found["folders"] += len(folders)
		}
	}
	bundles, _ := filepath.Glob(b.Place.Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io/*"))
	found["bundles"] = len(bundles)
	return found
}
