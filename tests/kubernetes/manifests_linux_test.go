// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/clients"
	"cloister/tests/testenv"
)

// TestManifests applies deploy's folders to an API server without a kubelet: it takes them, adds
// the class's overhead and its nodes to a pod, and refuses to let a pod's memory grow. The
// scheduler counts the overhead. The class of plain containers is there only where an overlay asks
// for it.
func TestManifests(t *testing.T) {
	t.Cleanup(func() { count(t) })
	testenv.NeedOverlay(t)
	c := newNode(t, clients.Containerd)
	c.deploy = "kubernetes"
	c.writeAccounts(t)
	c.stores(t)
	if err := os.CopyFS(c.path("deploy"), os.DirFS(filepath.Join(testenv.Tree(t), "deploy"))); err != nil {
		t.Fatal(err)
	}
	s, system := &space{c, "default"}, &space{c, "cloister"}
	// As it is, without an overlay.
	system.must(t, "apply", "-k", c.path("deploy/"+c.deploy))
	s.mustNot(t, "get", "runtimeclass", "cloister-process")
	if got := system.field(t, "daemonset/cloister-node", ".spec.template.spec.containers[0].image"); got != nodeImage+":1" {
		t.Errorf("the installer's image = %q, want one that no registry has: %s:1", got, nodeImage)
	}
	system.must(t, "apply", "-k", c.kustomize(t, c.deploy, "1", "install"))
	system.must(t, "get", "runtimeclass", "cloister", "cloister-process")
	s.must(t, "create", "serviceaccount", "default")
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, resources: {requests: {memory: 32Mi, cpu: 50m}, limits: {memory: 96Mi, cpu: 500m}}}
`)
	if got := s.field(t, "pod/sized", ".spec.overhead.memory"); got != s.field(t, "runtimeclass/cloister", ".overhead.podFixed.memory") {
		t.Errorf("overhead of the pod = %q, want the class's", got)
	}
	if got := s.field(t, "pod/sized", `.spec.nodeSelector.io\.cloister/runtime`); got != "true" {
		t.Errorf("the pod's nodes have the label %q, want true", got)
	}
	patch := func(memory string) (string, error) {
		return s.try(t, "patch", "pod", "sized", "--subresource=resize", "--patch",
			fmt.Sprintf(`{"spec":{"containers":[{"name":"main","resources":{"limits":{"memory":%q}}}]}}`, memory))
	}
	s.await(t, "the refusal of 4 GiB", func() string { // a new rule counts after some time
		out, err := patch("4Gi")
		if err == nil {
			_, _ = patch("96Mi")
		}
		if err == nil || !strings.Contains(out, "container main: the memory of a cloister machine is fixed when its pod starts") {
			return fmt.Sprintf("%q, %v", out, err)
		}
		return ""
	})
	if out, err := patch("64Mi"); err != nil {
		t.Errorf("a lower limit: %v: %s", err, out)
	}
	s.must(t, "delete", "pod", "sized")
	s.checkScheduler(t)
	c.checkInstaller(t, system)
	system.must(t, "apply", "-k", c.kustomize(t, "kubernetes-remove", "1", "remove"), "--dry-run=server", "--validate=strict")
	system.must(t, "delete", "-k", c.path("deploy/"+c.deploy+"-1"), "--wait=false")
}

// checkScheduler: a node with room for a pod's own memory takes the pod without a class, and the
// one of the class only once there is room for its overhead, to the byte.
func (s *space) checkScheduler(t *testing.T) {
	t.Helper()
	s.startScheduler(t)
	overhead := mebibytes(t, s.field(t, "runtimeclass/cloister", ".overhead.podFixed.memory"))
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  nodeSelector: {io.cloister/runtime: "true"}
  containers:
  - {name: main, image: IMAGE, resources: {requests: {memory: 64Mi}}}
`
	s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: narrow, labels: {io.cloister/runtime: "true"}}
status: {allocatable: {cpu: "4", memory: %dMi, pods: "9"}, capacity: {cpu: "4", memory: %[1]dMi, pods: "9"}}
`, 64+overhead-1))
	s.must(t, "taint", "node", "narrow", "node.kubernetes.io/not-ready:NoSchedule-") // no kubelet says that it is ready
	s.apply(t, fmt.Sprintf(pod, "heavy", "runtimeClassName: cloister"))
	s.await(t, "the refusal of the class's pod", func() string {
		out := s.field(t, "pod/heavy", `.status.conditions[?(@.type=="PodScheduled")].message`)
		if !strings.Contains(out, "Insufficient memory") {
			return fmt.Sprintf("%q, want Insufficient memory", out)
		}
		return ""
	})
	s.apply(t, fmt.Sprintf(pod, "light", ""))
	s.awaitField(t, "pod/light", ".spec.nodeName", "narrow")
	s.must(t, "patch", "node", "narrow", "--subresource=status", "--patch",
		fmt.Sprintf(`{"status":{"allocatable":{"memory":"%dMi"}}}`, 64+64+overhead))
	s.awaitField(t, "pod/heavy", ".spec.nodeName", "narrow")
	s.must(t, "delete", "node", "narrow")
}

// checkInstaller: the installer's account may label the node that its token was made for. It may
// change nothing else of any node, whatever its role says.
func (c *cluster) checkInstaller(t *testing.T, system *space) {
	t.Helper()
	system.apply(t, `
apiVersion: v1
kind: Node
metadata: {name: own}
---
apiVersion: v1
kind: Node
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: installer}
spec: {nodeName: own, serviceAccountName: node, containers: [{name: main, image: IMAGE}]}
`)
	// kubectl reads a node before it patches it.
	system.must(t, "create", "clusterrole", "reader", "--verb=get", "--resource=nodes")
	system.must(t, "create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=cloister:node")
	token := system.must(t, "create", "token", "node", "--bound-object-kind=Pod", "--bound-object-name=installer")
	patch := func(node, body string) (string, error) {
		return system.try(t, "--token="+strings.TrimSpace(token), "patch", "node", node, "--type=merge", "--patch", body)
	}
	const label = `{"metadata":{"labels":{"io.cloister/runtime":"true"}}}`
	system.await(t, "the refusal of another node", func() string {
		if out, err := patch("other", label); err == nil || !strings.Contains(out, "may change the node that it runs on alone") {
			return fmt.Sprintf("%q, %v", out, err)
		}
		return ""
	})
	if out, err := patch("own", label); err != nil {
		t.Errorf("a label of the node's own: %v: %s", err, out)
	}
	const (
		finalizer = `{"metadata":{"finalizers":["example.org/x"]}}`
		owner     = `{"metadata":{"ownerReferences":[
			{"apiVersion":"v1","kind":"Node","name":"gone","uid":"00000000-0000-4000-8000-000000000000"}]}}`
		taken = `{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"1"}}}`
	)
	for body, want := range map[string]string{
		`{"spec":{"unschedulable":true}}`: "may change labels alone",
		finalizer:                         "may change labels alone",
		owner:                             "may change labels alone", // the garbage collector would delete the node
		taken:                             "may change the labels io.cloister/* alone",
	} {
		if out, err := patch("own", body); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %q, want %q", body, err, out, want)
		}
	}
}
