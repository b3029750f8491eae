// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

// atOnce is how many pods CI starts at once: three times as many machines as its hosts have
// processors.
const atOnce = 6

// TestManyPods starts pods at once, each with a container, and takes them away at once: nothing is
// left.
func TestManyPods(t *testing.T) {
	b := newBed(t, "podsandbox")
	pods := make([]*pod, atOnce)
	step(t, "many at once", func(t *testing.T) {
		b.each(t, func(t *testing.T, i int) {
			name := "pod" + strconv.Itoa(i)
			answer, err := b.cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
				Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
				LogDirectory: filepath.Join(b.Place.Dir, "logs", name),
			}})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			pods[i] = &pod{
				bed: b, id: answer.GetPodSandboxId(),
				config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}},
			}
			id := pods[i].start(t, "main", nil, "sleep", "1000")
			if got, code := b.exec(t, id, "echo "+name); got != name+"\n" || code != 0 {
				t.Errorf("exec in %s = %q, exit %d", name, got, code)
			}
		})
	})
	step(t, "none left of many", func(t *testing.T) {
		b.each(t, func(t *testing.T, i int) {
			if pods[i] != nil {
				pods[i].remove(t)
			}
		})
		nothingLeft(t, b)
	})
}

// each runs f for each of the pods at once. A Fatal of f ends its own goroutine alone.
func (b *bed) each(t *testing.T, f func(t *testing.T, i int)) {
	t.Helper()
	var all sync.WaitGroup
	for i := range atOnce {
		all.Go(func() { f(t, i) })
	}
	all.Wait()
}

// TestRecovery kills what holds a pod, one after the other, and has the kubelet's calls clean up.
func TestRecovery(t *testing.T) {
	for _, sandboxer := range []string{"podsandbox", "shim"} {
		b := newBed(t, sandboxer)
		for _, test := range []struct {
			name string
			kill func(t *testing.T)
		}{
			{"shim killed", func(t *testing.T) { b.kill(t, "containerd-shim") }},
			{"machine killed", func(t *testing.T) { b.kill(t, "qemu-system") }},
			{"reboot", b.reboot},
		} {
			step(t, test.name+", "+sandboxer, func(t *testing.T) {
				p, id := b.webPod(t)
				test.kill(t)
				if wrong := host.Await(host.Patience, func() string {
					answer, err := b.cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
					if err != nil {
						return err.Error()
					}
					if s := answer.GetStatus().GetState(); s != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
						return s.String()
					}
					return ""
				}); wrong != "" {
					t.Errorf("the pod is %s, want not ready", wrong)
				}
				if s := b.exited(t, id); s.GetExitCode() == 0 {
					t.Errorf("its container ended with 0")
				}
				p.remove(t)
				nothingLeft(t, b)
				p, _ = b.webPod(t) // the same name is free again
				p.remove(t)
				nothingLeft(t, b)
			})
		}
	}
}

// webPod is a pod with one container that runs.
func (b *bed) webPod(t *testing.T) (*pod, string) {
	t.Helper()
	p := b.run(t, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web"}})
	return p, p.start(t, "main", nil, "sleep", "1000")
}

// kill ends every process of the place with that in its program's name.
func (b *bed) kill(t *testing.T, program string) {
	t.Helper()
	for pid, line := range b.Place.Processes(t) {
		if strings.Contains(strings.Fields(line)[0], program) {
			b.Place.Kill(t, pid)
		}
	}
}

// reboot leaves what a host's reboot leaves: files on disk, no process, no mount, nothing below
// /run.
func (b *bed) reboot(t *testing.T) {
	t.Helper()
	b.Stop(t, "KILL")
	// Shims first: one that lives would act on the end of its machine, which no reboot lets it.
	for _, program := range []string{"containerd-shim", "qemu-system", "virtiofsd"} {
		b.kill(t, program)
	}
	b.Place.Run(t, "sh", "-c",
		`awk '$5 ~ "^/run/" { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l; ip link delete cni0; rm -rf `+
			`/run/cloister /run/containerd /run/netns`)
	b.Start(t)
	b.ready(t)
}

// TestMachineOutOfMemory has the host's cgroup kill a machine: it is reported as out of memory,
// with what to do.
func TestMachineOutOfMemory(t *testing.T) {
	b := newBed(t, "podsandbox")
	parent := b.cgroup(t)
	step(t, "the host is out of memory", func(t *testing.T) {
		// 96 MiB are less than the machine needs to boot.
		for _, file := range []string{
			"/sys/fs/cgroup/memory" + parent + "/memory.limit_in_bytes",
			"/sys/fs/cgroup" + parent + "/memory.max",
		} {
			if _, err := os.Stat(file); err == nil {
				if err := os.WriteFile(file, []byte(strconv.Itoa(96<<20)), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		answer, err := b.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "tight", Namespace: "default", Uid: "tight"},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent},
		}})
		if err == nil {
			(&pod{bed: b, id: answer.GetPodSandboxId()}).remove(t)
			t.Fatal("a machine of 600 MiB started within 96 MiB")
		}
		for _, want := range []string{"out of memory", parent, "overhead"} {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("RunPodSandbox = %v, want %q in it", err, want)
			}
		}
		nothingLeft(t, b)
	})
}
