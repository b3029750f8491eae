// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// overhead: what the class says is added at admission, counted on the node and part of the pod's
// cgroup; the workload can use its whole limit.
func overhead(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: small}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"], resources: {limits: {memory: 64Mi, cpu: 500m}}}
`)
	s.ready(t, "small")
	text := s.field(t, "runtimeclass/cloister", ".overhead.podFixed.memory")
	mib := mebibytes(t, text)
	if got := s.field(t, "pod/small", ".spec.overhead.memory"); got != text {
		t.Errorf("overhead of the pod = %s, want the class's, %s", got, text)
	}
	if got := s.must(t, "describe", "node", nodeName); !strings.Contains(got, fmt.Sprintf("%dMi", 64+mib)) {
		t.Errorf("the node counts no pod with %d MiB:\n%s", 64+mib, got)
	}
	group := s.podCgroup(t, "small")
	if got := s.memory(t, group, "memory.limit_in_bytes", "memory.max"); got != (64+mib)<<20 {
		t.Errorf("limit of the pod's cgroup = %d MiB, want %d", got>>20, 64+mib)
	}
	s.exec(t, "small", "dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null")
	used := s.memory(t, group, "memory.usage_in_bytes", "memory.current")
	t.Logf("the pod uses %d of %d MiB", used>>20, 64+mib)
	if used>>20 < 48 {
		t.Errorf("the pod uses %d MiB, and its container has written 48", used>>20)
	}
	if got := s.field(t, "pod/small", ".status.containerStatuses[0].restartCount"); got != "0" {
		t.Errorf("restarted %s times", got)
	}
}

// mebibytes reads a quantity that is written with Mi.
func mebibytes(t *testing.T, text string) int {
	t.Helper()
	mib, err := strconv.Atoi(strings.TrimSuffix(text, "Mi"))
	if err != nil {
		t.Fatal(err)
	}
	return mib
}

// podCgroup is the pod's below a hierarchy with the memory controller.
func (s *space) podCgroup(t *testing.T, pod string) string {
	t.Helper()
	uid := s.field(t, "pod/"+pod, ".metadata.uid")
	for _, top := range hierarchies() {
		found, _ := filepath.Glob(filepath.Join(top, s.cgroups, "kubepods", "*", "pod"+uid))
		more, _ := filepath.Glob(filepath.Join(top, s.cgroups, "kubepods", "pod"+uid))
		found = append(found, more...)
		if len(found) == 1 && (filepath.Base(top) == "memory" || filepath.Base(top) == "cgroup") {
			return found[0]
		}
	}
	t.Fatalf("pod %s (%s) has no cgroup", pod, uid)
	return ""
}

// memory reads a number of a memory cgroup, by its name in version 1 or 2.
func (s *space) memory(t *testing.T, group string, names ...string) int {
	t.Helper()
	for _, name := range names {
		if data, err := os.ReadFile(filepath.Join(group, name)); err == nil {
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has none of %s", group, strings.Join(names, ", "))
	return 0
}

// sharedVolume: two containers of a pod meet in an emptyDir, on disk and in memory.
func sharedVolume(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]
  containers:
  - name: a
    image: IMAGE
    command: [sleep, "1000"]
    volumeMounts: &mounts [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}, {name: disk, mountPath: /again}]
  - {name: b, image: IMAGE, command: [sleep, "1000"], volumeMounts: *mounts}
`)
	s.ready(t, "two")
	for _, volume := range []string{"/disk", "/memory"} {
		s.exec(t, "two/a", "cd "+volume+"; mkfifo fifo; (echo through >fifo) </dev/null >/dev/null 2>&1 &")
		if got := s.exec(t, "two/b", "timeout 60 cat "+volume+"/fifo"); got != "through\n" {
			t.Errorf("%s: the other container reads %q from a FIFO", volume, got)
		}
		for i := range 3 {
			s.exec(t, "two/a", fmt.Sprintf("cd %s; echo %d >new; mv new replaced", volume, i))
			if got := s.exec(t, "two/b", "cat "+volume+"/replaced"); got != fmt.Sprintf("%d\n", i) {
				t.Errorf("%s: the other container reads %q after a rename, want %d", volume, got, i)
			}
		}
	}
	if got := s.exec(t, "two/a", "echo one >/disk/f; cat /again/f; echo two >/again/f; cat /disk/f"); got != "one\ntwo\n" {
		t.Errorf("one volume at two places = %q", got)
	}
}

// partlyLimited: a container without limits has memory of its own beside a limited sidecar. The pod
// is of class Burstable.
func partlyLimited(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: mixed}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"]}
  - {name: proxy, image: IMAGE, command: [sleep, "1000"], resources: {limits: {memory: 32Mi, cpu: 100m}}}
`)
	s.ready(t, "mixed")
	fill := "dd if=/dev/zero of=/dev/shm/x bs=1M count=200 2>/dev/null; du -m /dev/shm/x | cut -f1"
	if got := s.exec(t, "mixed/main", fill); got != "200\n" {
		t.Errorf("the container without limits holds %q MiB, want 200", got)
	}
	if got := s.exec(t, "mixed/proxy", "cat /sys/fs/cgroup/memory.max"); got != fmt.Sprintln(32<<20) {
		t.Errorf("memory.max of the sidecar = %q", got)
	}
	s.checkQoS(t, "mixed", "Burstable", "burstable")
}

// debug: an ephemeral container sees the processes of its target.
func debug(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: target}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sleep, "12345"]}
`)
	s.ready(t, "target")
	s.must(t, "debug", "target", "--image="+image, "--target=main", "--container=shell", "--profile=general", "--", "sleep", "1000")
	s.await(t, "the ephemeral container", func() string {
		if state := s.field(t, "pod/target", ".status.ephemeralContainerStatuses[0].state"); !strings.Contains(state, "running") {
			return state + " "
		}
		return ""
	})
	if got := s.exec(t, "target/shell", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); !strings.Contains(got, "sleep 12345") {
		t.Errorf("the ephemeral container sees %q, want the target's sleep 12345", got)
	}
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: several}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"]}
  - {name: other, image: IMAGE, command: [sleep, "1000"]}
`)
	s.ready(t, "several")
	s.must(t, "debug", "several", "--image="+image, "--target=main", "--container=shell", "--profile=general", "--", "sleep", "1000")
	s.await(t, "the refusal of a target that has no name of its own", func() string {
		state := s.field(t, "pod/several", ".status.ephemeralContainerStatuses[0].state")
		if !strings.Contains(state, "shareProcessNamespace") {
			return state + ", want an error that names shareProcessNamespace"
		}
		return ""
	})
}

// home: without an entry in passwd, HOME is the root folder.
func home(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: somebody}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 2000}
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "echo [$HOME]; id -u; id -g"]}
`)
	s.awaitField(t, "pod/somebody", ".status.phase", "Succeeded")
	if got := s.must(t, "logs", "somebody"); got != "[/]\n1000\n2000\n" {
		t.Errorf("HOME, uid and gid = %q", got)
	}
}

// resize: limits change in place below what the machine has; more than it has is refused with the
// machine's figure, and so is a container that is made anew with more.
func resize(t *testing.T, s *space) {
	for pod, policy := range map[string]string{"sized": "NotRequired", "again": "RestartContainer"} {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000"]
    resources: {requests: {memory: 32Mi, cpu: 50m}, limits: {memory: 96Mi, cpu: 500m}}
    resizePolicy: [{resourceName: memory, restartPolicy: %s}, {resourceName: cpu, restartPolicy: NotRequired}]
`, pod, policy))
	}
	s.ready(t, "sized", "again")
	patch := func(pod, memory string) (string, error) {
		return s.try(t, "patch", "pod", pod, "--subresource=resize", "--patch",
			fmt.Sprintf(`{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":%q,"cpu":"400m"}}}]}}`, memory))
	}
	for pod, restarts := range map[string]string{"sized": "0", "again": "1"} {
		if out, err := patch(pod, "64Mi"); err != nil {
			t.Fatalf("resize of %s: %v: %s", pod, err, out)
		}
		s.awaitField(t, "pod/"+pod, ".status.containerStatuses[0].resources.limits.memory", "64Mi")
		s.awaitField(t, "pod/"+pod, ".status.containerStatuses[0].restartCount", restarts)
		s.ready(t, pod)
		if got := s.exec(t, pod, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"); got != fmt.Sprintf("%d\n40000 100000\n", 64<<20) {
			t.Errorf("memory.max and cpu.max of %s = %q", pod, got)
		}
		if out, err := patch(pod, "4Gi"); err == nil || !strings.Contains(out, "fixed when its pod starts") {
			t.Errorf("resize of %s to 4 GiB: %v: %s", pod, err, out)
		}
	}
	// Without the rule it is the runtime that refuses.
	s.must(t, "delete", "validatingadmissionpolicybinding", "cloister-resize")
	t.Cleanup(func() { s.must(t, "apply", "-f", s.path("deploy/kubernetes/resize.yaml")) })
	want := fmt.Sprintf("the machine has %d bytes", 96<<20)
	for pod, field := range map[string]string{
		"sized": `.status.conditions[?(@.type=="PodResizeInProgress")].message`,
		"again": ".status.containerStatuses[0].state.waiting.message",
	} {
		s.await(t, "a resize to 160 MiB without the rule", func() string { // which counts for some time yet
			if out, err := patch(pod, "160Mi"); err != nil {
				return out
			}
			return ""
		})
		s.await(t, "the refusal of 160 MiB", func() string {
			if got := s.field(t, "pod/"+pod, field); !strings.Contains(got, want) {
				return fmt.Sprintf("message %q, want %q", got, want)
			}
			return ""
		})
	}
	s.await(t, "the refusal as an event", func() string {
		_, events, _ := strings.Cut(s.must(t, "describe", "pod", "sized"), "Events:")
		if !strings.Contains(events, "ResizeError") || !strings.Contains(events, "the machine has") {
			return events + " "
		}
		return ""
	})
	t.Logf("the refusal: %s", s.must(t, "describe", "pods"))
	if got := s.exec(t, "sized", "cat /sys/fs/cgroup/memory.max"); got != fmt.Sprintln(64<<20) {
		t.Errorf("memory.max after the refusal = %q", got)
	}
}

// stats is what is looked at of the kubelet's summary.
type stats struct {
	Pods []struct {
		PodRef  struct{ Name, Namespace string }
		Network struct {
			RxBytes, TxBytes uint64
			Interfaces       []struct{ Name string }
		}
		CPU        struct{ UsageCoreNanoSeconds uint64 }
		Memory     struct{ UsageBytes, WorkingSetBytes uint64 }
		Containers []struct {
			Name   string
			CPU    struct{ UsageCoreNanoSeconds uint64 }
			Memory struct{ WorkingSetBytes uint64 }
		}
	}
}

// summary: what kubectl top is made of has the pod's CPU and memory, and so does what
// metrics-server asks a kubelet for. The summary has the network too, and no interface of
// cloister's own. The kubelet counts processes by the containers' cgroups on the host, of which a
// guest has none.
func summary(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: seen}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "while :; do ping -c 1 -W 1 10.85.0.1 >/dev/null; sleep 1; done"]}
`)
	s.ready(t, "seen")
	s.await(t, "the summary", func() string {
		var all stats
		if err := json.Unmarshal([]byte(s.must(t, "get", "--raw", "/api/v1/nodes/"+nodeName+"/proxy/stats/summary")), &all); err != nil {
			return err.Error()
		}
		for _, p := range all.Pods {
			if p.PodRef.Name != "seen" {
				continue
			}
			if p.Network.RxBytes == 0 || p.CPU.UsageCoreNanoSeconds == 0 || p.Memory.WorkingSetBytes == 0 ||
				len(p.Containers) != 1 || p.Containers[0].CPU.UsageCoreNanoSeconds == 0 || p.Containers[0].Memory.WorkingSetBytes == 0 {
				return fmt.Sprintf("%+v", p)
			}
			if nics := p.Network.Interfaces; len(nics) != 1 || nics[0].Name != "eth0" {
				t.Errorf("the pod's interfaces are %v, want eth0 alone", nics)
			}
			return ""
		}
		return "the pod is not in it"
	})
	s.await(t, "the resource metrics", func() string {
		all := s.must(t, "get", "--raw", "/api/v1/nodes/"+nodeName+"/proxy/metrics/resource")
		for _, name := range []string{
			"pod_cpu_usage_seconds_total{", "pod_memory_working_set_bytes{",
			`container_cpu_usage_seconds_total{container="main",`, `container_memory_working_set_bytes{container="main",`,
		} {
			line := regexp.QuoteMeta(name) + `namespace="` + s.name + `",pod="seen"} [0-9.e+]*[1-9]`
			if !regexp.MustCompile(`(?m)^` + line).MatchString(all) {
				return "no " + name + " of the pod in\n" + all
			}
		}
		return ""
	})
}

// refused: a pod with a namespace of the host's tells its author which field it was, and nothing
// that is not theirs.
func refused(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: hosted}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"]}
`)
	s.await(t, "the refusal", func() string {
		if got := s.must(t, "describe", "pod", "hosted"); !strings.Contains(got, "FailedCreatePodSandBox") {
			return got
		}
		return ""
	})
	got := s.must(t, "get", "events", "--field-selector=reason=FailedCreatePodSandBox", "-o", "jsonpath={.items[0].message}")
	t.Logf("the refusal: %s", got)
	if !strings.Contains(got, "hostNetwork") || strings.Contains(got, "uts") {
		t.Errorf("the refusal reads %q, want hostNetwork and no word of the UTS namespace", got)
	}
}
