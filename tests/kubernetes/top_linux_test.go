// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/clients"
)

const metricsImage = "docker.io/cloister/metrics-server:1"

// metricsManifest is metrics-server in a plain pod, with the rights that it asks for. It verifies
// the kubelet's certificate.
const metricsManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: metrics-server}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: metrics-server}
rules:
- {apiGroups: [""], resources: [nodes/metrics], verbs: [get]}
- {apiGroups: [""], resources: [pods, nodes], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: metrics-server}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: metrics-server}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: metrics-server-delegator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: metrics-server-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: v1
kind: Secret
metadata: {name: metrics-server}
stringData: {authority.crt: %q, tls.crt: %q, tls.key: %q}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: metrics-server}
spec:
  selector: {matchLabels: {app: metrics-server}}
  template:
    metadata: {labels: {app: metrics-server}}
    spec:
      serviceAccountName: metrics-server
      terminationGracePeriodSeconds: 1
      volumes: [{name: certificates, secret: {secretName: metrics-server}}]
      containers:
      - name: main
        image: ` + metricsImage + `
        args:
        - --secure-port=4443
        - --tls-cert-file=/certificates/tls.crt
        - --tls-private-key-file=/certificates/tls.key
        - --kubelet-certificate-authority=/certificates/authority.crt
        - --kubelet-preferred-address-types=InternalIP
        - --kubelet-use-node-status-port
        - --metric-resolution=10s
        - --kubelet-request-timeout=9s
        volumeMounts: [{name: certificates, mountPath: /certificates}]
        readinessProbe: {httpGet: {path: /readyz, port: 4443, scheme: HTTPS}, periodSeconds: 2, timeoutSeconds: 10}
        resources: {requests: {cpu: 100m, memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server}
spec: {selector: {app: metrics-server}, ports: [{port: 443, targetPort: 4443}]}
`

// metricsService has the API server ask metrics-server for the group, and verify its certificate.
const metricsService = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  service: {name: metrics-server, namespace: kube-system}
  caBundle: %s
  groupPriorityMinimum: 100
  versionPriority: 100
`

// busyPod has a container that is always busy, one with 48 MiB of memory and one that waits.
const busyPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: busy
    image: IMAGE
    command: [sh, -c, "while :; do :; done"]
    resources: {requests: {cpu: 50m}, limits: {cpu: 100m, memory: 32Mi}}
  - name: full
    image: IMAGE
    command: [sh, -c, "head -c 48m /dev/zero >/dev/shm/x; exec sleep 1000"]
    resources: {requests: {cpu: 50m}, limits: {cpu: 200m, memory: 80Mi}}
  - name: idle
    image: IMAGE
    command: [sleep, "1000"]
    resources: {requests: {cpu: 20m}, limits: {cpu: 100m, memory: 32Mi}}
`

// top: kubectl top shows what each container uses, in pods of every class, and the node's sum.
func top(t *testing.T, s *space) {
	for _, class := range classes {
		s.apply(t, fmt.Sprintf(busyPod, class, classLine(class)))
	}
	s.serveMetrics(t)
	s.ready(t, classes...)
	var pods map[string]usage
	s.await(t, "kubectl top", func() (wrong string) {
		pods, wrong = s.wrongTop(t)
		return wrong
	})
	s.checkMachine(t, pods)
}

// wrongTop gives the pods' usage, and tells which figure cannot be. metrics-server measures anew
// every ten seconds, and a busy host may have starved a container meanwhile.
func (s *space) wrongTop(t *testing.T) (pods map[string]usage, wrong string) {
	t.Helper()
	containers, err := s.usage(t, 2, "pod", "--containers")
	if err != nil {
		return nil, err.Error()
	}
	if pods, err = s.usage(t, 1, "pod"); err != nil {
		return nil, err.Error()
	}
	nodes, err := s.usage(t, 1, "node")
	if err != nil {
		return nil, err.Error()
	}
	memory := 0
	for _, class := range classes {
		if wrong := wrongUsage(containers, class); wrong != "" {
			return nil, fmt.Sprintf("%s: %s: %v", class, wrong, containers)
		}
		if u := pods[class]; u.cpu < busyCPU || u.memory < fullMemory || u.memory > fullMemory+otherMemory {
			return nil, fmt.Sprintf("the pod %s uses %v, want the sum of its containers", class, u)
		}
		memory += pods[class].memory
	}
	if u := nodes[nodeName]; u.cpu == 0 || u.memory < memory {
		return nil, fmt.Sprintf("the node uses %v, want some CPU and at least the %d MiB of three of its pods", u, memory)
	}
	t.Logf("containers: %v, pods: %v, nodes: %v", containers, pods, nodes)
	return pods, ""
}

// checkMachine: the kubelet's own figure of a guest's pod has the machine, and kubectl top's has
// not.
func (s *space) checkMachine(t *testing.T, pods map[string]usage) {
	t.Helper()
	var all stats
	if err := json.Unmarshal([]byte(s.must(t, "get", "--raw", "/api/v1/nodes/"+nodeName+"/proxy/stats/summary")), &all); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, p := range all.Pods {
		if p.PodRef.Namespace != s.name {
			continue
		}
		seen++
		more := int(p.Memory.WorkingSetBytes>>20) - pods[p.PodRef.Name].memory
		if guest := p.PodRef.Name == "cloister"; guest != (more > otherMemory) {
			t.Errorf("the kubelet counts %d MiB more for the pod %s than kubectl top", more, p.PodRef.Name)
		}
	}
	if seen != len(classes) {
		t.Errorf("the kubelet's summary has %d of the pods, want %d", seen, len(classes))
	}
}

// What busyPod's containers use, with leeway for a machine that others share.
const (
	busyCPU     = 40 // at least, of the 100 that its limit gives
	idleCPU     = 10 // at most
	fullMemory  = 48 // at least
	otherMemory = 12 // at most, of a container without data, and of a full one beyond the data
)

// usage is what kubectl top shows of something: thousandths of a processor, and MiB.
type usage struct{ cpu, memory int }

// usage gives what kubectl top shows, by the names in a line's first columns.
func (s *space) usage(t *testing.T, names int, args ...string) (map[string]usage, error) {
	t.Helper()
	args = append([]string{"top"}, args...)
	out, err := s.try(t, append(args, "--no-headers")...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	all := map[string]usage{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < names {
			return nil, fmt.Errorf("the line %q", line)
		}
		figures := slices.DeleteFunc(fields[names:], func(f string) bool { return strings.HasSuffix(f, "%") })
		var u usage
		if n, err := fmt.Sscanf(strings.Join(figures, " "), "%dm %dMi", &u.cpu, &u.memory); n != 2 {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		all[strings.Join(fields[:names], "/")] = u
	}
	return all, nil
}

// wrongUsage tells which container of a busyPod uses what it cannot.
func wrongUsage(all map[string]usage, pod string) string {
	busy, full, idle := all[pod+"/busy"], all[pod+"/full"], all[pod+"/idle"]
	switch {
	case busy.cpu < busyCPU:
		return fmt.Sprintf("the busy container uses %d m of a CPU, want at least %d", busy.cpu, busyCPU)
	case idle.cpu > idleCPU || full.cpu > idleCPU:
		return fmt.Sprintf("the idle containers use %d and %d m of a CPU, want at most %d", idle.cpu, full.cpu, idleCPU)
	case full.memory < fullMemory || full.memory > fullMemory+otherMemory:
		return fmt.Sprintf("the full container uses %d MiB, want %d and little more", full.memory, fullMemory)
	case busy.memory > otherMemory || idle.memory > otherMemory:
		return fmt.Sprintf("the other containers use %d and %d MiB, want at most %d", busy.memory, idle.memory, otherMemory)
	}
	return ""
}

// serveMetrics has metrics-server answer for the API server until the test ends. Both verify the
// servers that they ask.
func (c *cluster) serveMetrics(t *testing.T) {
	t.Helper()
	c.loadProgram(t, metricsImage, filepath.Join(clients.Need(t, clients.MetricsServer, "metrics-server"), "metrics-server"))
	authority := c.readPKI(t, authorityName+".crt")
	system := &space{c, "kube-system"}
	system.apply(t, fmt.Sprintf(metricsManifest, authority, c.readPKI(t, metricsName+".crt"), c.readPKI(t, metricsName+".key")))
	system.rollout(t, "deployment/metrics-server")
	// Not earlier: while a group's server does not answer, other cases can delete no namespace.
	system.apply(t, fmt.Sprintf(metricsService, base64.StdEncoding.EncodeToString([]byte(authority))))
	t.Cleanup(func() { system.must(t, "delete", "apiservice/v1beta1.metrics.k8s.io", "deployment/metrics-server") })
}
