// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

// TestPodSandbox has containerd make pods of an ordinary container with a pause image.
func TestPodSandbox(t *testing.T) { pods(t, "podsandbox") }

// pods walks one pod with two containers through its life.
func pods(t *testing.T, sandboxer string) {
	t.Helper()
	b := newBed(t, sandboxer)
	var p *pod
	if !step(t, "run", func(*testing.T) {
		p = b.run(t, &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web"}, Hostname: "web-0",
			DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.85.0.1"}, Searches: []string{"svc.test"}},
			PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 8080, HostPort: 18080}},
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				// One each of the network, of IPC and of POSIX queues.
				CgroupParent: b.cgroup(t), Sysctls: map[string]string{
					"net.ipv4.ping_group_range": "0 100",
					"kernel.shm_rmid_forced":    "1", "fs.mqueue.msg_max": "100",
				},
			},
		})
	}) {
		return
	}
	var ip string
	step(t, "status", func(t *testing.T) {
		answer, err := b.cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		ip = answer.GetStatus().GetNetwork().GetIp()
		if s := answer.GetStatus(); s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(ip, "10.85.0.") {
			t.Errorf("PodSandboxStatus = %s with ip %q", s.GetState(), ip)
		}
	})
	var first, second string
	if !step(t, "two containers", func(t *testing.T) {
		volumes := b.volumes(t)
		first = p.start(t, "first", func(c *runtimeapi.ContainerConfig) { c.Mounts = volumes },
			"sh", "-c", "echo out; echo err >&2; mkdir /www; echo page >/www/f; exec httpd -f -p 8080 -h /www")
		second = p.start(t, "second", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = volumes
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
			c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			}
			c.Envs = []*runtimeapi.KeyValue{{Key: "WORD", Value: []byte("told")}}
		}, "sleep", "1000")
	}) {
		p.remove(t)
		return
	}
	inside(t, b, ip, first, second)
	outside(t, b, p, first, second)
	streams(t, b, p, first)
	lives(t, b, p)
	step(t, "a folder at /dev/shm", func(t *testing.T) { folderAtShm(t, b, p) })
	step(t, "restart of containerd", func(t *testing.T) {
		b.Stop(t, "KILL")
		b.Start(t)
		b.ready(t)
		if got, code := b.exec(t, second, "echo $WORD"); got != "told\n" || code != 0 {
			t.Errorf("exec after the restart = %q, exit %d", got, code)
		}
		if s := b.status(t, first).GetState(); s != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the first container is %s after the restart", s)
		}
	})
	step(t, "end of one", func(t *testing.T) { ends(t, b, p, second) })
	step(t, "refusals", func(t *testing.T) { refusals(t, b) })
	step(t, "stop and remove", func(t *testing.T) {
		p.remove(t)
		nothingLeft(t, b)
	})
}

// inside looks at the pod from its containers.
func inside(t *testing.T, b *bed, ip, first, second string) {
	t.Helper()
	for _, test := range []struct{ name, in, want, script string }{
		{"exec", second, "told\n", "echo $WORD"},
		{"hostname", second, "web-0\n", "hostname"},
		{"name server", second, "nameserver 10.85.0.1\n", "grep nameserver /etc/resolv.conf"},
		{"localhost", second, "page\n", "printf 'GET /f HTTP/1.0\\r\\n\\r\\n' | nc -w 10 127.0.0.1 8080 | tail -n 1"},
		{"address", second, ip + "\n", "ip -o -4 addr show dev eth0 | awk '{print $4}' | cut -d/ -f1"},
		{"gateway", second, "0\n", "ping -c 1 -W 5 10.85.0.1 >/dev/null; echo $?"},
		{"sysctl", second, "0 100\n", "cat /proc/sys/net/ipv4/ping_group_range | tr '\\t' ' '"},
		{"sysctl of the shared ipc", second, "1 100\n", "echo $(cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max)"},
		{"memory limit", second, "67108864\n", "cat /sys/fs/cgroup/memory.max"},
		{"shared ipc", second, "", "echo hello >/dev/shm/word"},
		{"shared memory of the other", first, "hello\n", "cat /dev/shm/word"},
		{"own processes", second, "sleep\n", "cat /proc/1/comm"},
		{"the pod's processes", first, "shared\n", "[ $(pidof httpd) != 1 ] && echo shared"},
	} {
		step(t, test.name, func(t *testing.T) {
			if got, code := b.exec(t, test.in, test.script); got != test.want || code != 0 {
				t.Errorf("%s = %q, exit %d, want %q", test.script, got, code, test.want)
			}
		})
	}
	meet(t, b, first, second, "/volume")
	meet(t, b, first, second, "/memory")
	step(t, "exit code", func(t *testing.T) {
		if _, code := b.exec(t, second, "exit 7"); code != 7 {
			t.Errorf("exit 7 = %d", code)
		}
	})
	step(t, "from the host", func(t *testing.T) {
		for _, address := range []string{ip + "/8080", "10.85.0.1/18080"} { // the pod's own, and the port of the host's
			if got := b.Place.Run(t, "bash", "-c",
				"exec 3<>/dev/tcp/"+address+"; printf 'GET /f HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"); got != "page\n" {
				t.Errorf("wget from %s = %q", address, got)
			}
		}
	})
}

// volumes are two emptyDir of a pod, one of them in memory, as a kubelet makes them.
func (b *bed) volumes(t *testing.T) []*runtimeapi.Mount {
	t.Helper()
	var mounts []*runtimeapi.Mount
	for _, name := range []string{"volume", "memory"} {
		dir := filepath.Join(b.Place.Dir, "empty-"+name)
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if name == "memory" {
			b.Place.Run(t, "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir)
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: "/" + name, HostPath: dir})
	}
	return mounts
}

// folderAtShm has a container with a folder of the host at /dev/shm, as pods have that want more
// shared memory. It is there, in place of the pod's own.
func folderAtShm(t *testing.T, b *bed, p *pod) {
	t.Helper()
	dir := filepath.Join(b.Place.Dir, "shm")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "word"), []byte("of the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := p.start(t, "memory", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/shm", HostPath: dir}}
	}, "sleep", "1000")
	if got, code := b.exec(t, id, "cat /dev/shm/word; echo of the guest >/dev/shm/answer"); got != "of the host\n" || code != 0 {
		t.Errorf("a folder of the host at /dev/shm = %q, exit %d", got, code)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "answer")); err != nil || string(got) != "of the guest\n" {
		t.Errorf("what the guest wrote to /dev/shm is %q on the host, %v", got, err)
	}
}

// meet has two containers of a pod meet in a volume: it is one file system.
func meet(t *testing.T, b *bed, first, second, volume string) {
	t.Helper()
	pass(t, b, first, second, volume)
	replace(t, b, first, second, volume)
}

// pass has one container write to a FIFO that the other reads.
func pass(t *testing.T, b *bed, first, second, volume string) {
	t.Helper()
	step(t, "a FIFO in "+volume, func(t *testing.T) {
		script := strings.ReplaceAll("mkfifo V/fifo; sh -c 'echo through >V/fifo' >/dev/null 2>&1 </dev/null &", "V", volume)
		if got, code := b.exec(t, first, script); code != 0 {
			t.Fatalf("%s = %q, exit %d", script, got, code)
		}
		if got, code := b.exec(t, second, "timeout 20 cat "+volume+"/fifo"); got != "through\n" || code != 0 {
			t.Errorf("the other container reads %q, exit %d", got, code)
		}
	})
}

// replace has one container replace a file by rename that the other reads.
func replace(t *testing.T, b *bed, first, second, volume string) {
	t.Helper()
	step(t, "files by rename in "+volume, func(t *testing.T) {
		for i := range 4 {
			script := fmt.Sprintf("cd %s && echo %d >new && mv new replaced", volume, i)
			if got, code := b.exec(t, first, script); code != 0 {
				t.Fatalf("%s = %q, exit %d", script, got, code)
			}
			if got, _ := b.exec(t, second, "cat "+volume+"/replaced"); got != fmt.Sprintf("%d\n", i) {
				t.Errorf("the other container reads %q, want %d", got, i)
			}
		}
	})
}

// outside looks at the containers as a kubelet does.
func outside(t *testing.T, b *bed, p *pod, first, second string) {
	t.Helper()
	step(t, "log", func(t *testing.T) {
		name := filepath.Join(p.config.GetLogDirectory(), "first.log")
		if wrong := host.Await(host.Patience, func() string {
			data, _ := os.ReadFile(name)
			if text := string(data); !strings.Contains(text, " stdout F out\n") || !strings.Contains(text, " stderr F err\n") {
				return text + " "
			}
			return ""
		}); wrong != "" {
			t.Errorf("log = %q", wrong)
		}
	})
	step(t, "stats", func(t *testing.T) {
		answer, err := b.cri.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: first})
		if err != nil {
			t.Fatal(err)
		}
		s := answer.GetStats()
		if s.GetMemory().GetUsageBytes().GetValue() == 0 || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("ContainerStats = %v", s)
		}
	})
	step(t, "list of stats", func(t *testing.T) {
		answer, err := b.cri.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
		if err != nil || len(answer.GetStats()) != 2 {
			t.Errorf("ListContainerStats = %d, %v, want 2", len(answer.GetStats()), err)
		}
	})
	step(t, "pod stats", func(t *testing.T) {
		answer, err := b.cri.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		if n := answer.GetStats().GetLinux().GetNetwork().GetDefaultInterface(); n.GetRxBytes().GetValue() == 0 {
			t.Errorf("network of the pod = %v", n)
		}
	})
	step(t, "update", func(t *testing.T) {
		_, err := b.cri.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: second, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := b.exec(t, second, "cat /sys/fs/cgroup/memory.max"); got != "33554432\n" {
			t.Errorf("memory.max = %q", got)
		}
	})
}

// ends stops one container, starts another in its place, and sees what they leave.
func ends(t *testing.T, b *bed, p *pod, second string) {
	t.Helper()
	if _, err := b.cri.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: second, Timeout: 0}); err != nil {
		t.Fatalf("StopContainer: %v", err)
	}
	if s := b.exited(t, second); s.GetExitCode() != 137 {
		t.Errorf("a killed container has exit code %d, want 137", s.GetExitCode())
	}
	if _, err := b.cri.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: second}); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	third := p.start(t, "third", nil, "sh", "-c", "exit 3")
	if s := b.exited(t, third); s.GetExitCode() != 3 {
		t.Errorf("the third container has exit code %d, want 3", s.GetExitCode())
	}
}

// refusals asks for what a guest cannot have.
func refusals(t *testing.T, b *bed) {
	t.Helper()
	for want, options := range map[string]*runtimeapi.NamespaceOption{
		"hostNetwork": {Network: runtimeapi.NamespaceMode_NODE},
		"hostPID":     {Pid: runtimeapi.NamespaceMode_NODE},
		"hostIPC":     {Ipc: runtimeapi.NamespaceMode_NODE},
	} {
		_, err := b.cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: want, Namespace: "default", Uid: want},
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: options},
			},
		}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a pod with %s: %v, want an error that names it", want, err)
		}
	}
}

// nothingLeft waits until no process but the daemon is in the place.
func nothingLeft(t *testing.T, b *bed) {
	t.Helper()
	if left := host.Await(host.Patience, func() string {
		var left []string
		for _, line := range b.Place.Processes(t) {
			if !strings.Contains(line, "containerd --config") && !strings.HasPrefix(line, "nsenter") {
				left = append(left, line)
			}
		}
		return strings.Join(left, "\n")
	}); left != "" {
		t.Errorf("processes left behind:\n%s", left)
	}
	if names, _ := filepath.Glob(b.Place.Path("/run/cloister/*/*")); len(names) > 0 {
		t.Errorf("left behind: %s", strings.Join(names, " "))
	}
	for line := range strings.Lines(value(t, b.LogFile)) {
		if strings.Contains(line, `msg="destroy sandbox"`) {
			t.Errorf("a sandbox was not taken back at once: %s", line)
		}
	}
}

// TestShimSandbox has the shim itself be the pods' sandbox, through containerd's Sandbox API.
func TestShimSandbox(t *testing.T) { pods(t, "shim") }
