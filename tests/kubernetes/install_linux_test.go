// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// nodeImage is the installer's name in deploy/node.
const nodeImage = "registry.invalid/cloister/node"

// overlay is what an administrator writes beside deploy's folders for a cluster of their own: the
// image, components, and the node's way of restarting containerd.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../%s]
components: [%s]
images: [{name: ` + nodeImage + `, newTag: %q}]
patches:
- target: {kind: DaemonSet}
  patch: |-
    - {op: replace, path: /spec/template/spec/initContainers/0/args, value: %s}
`

// kustomize writes an overlay of a folder of deploy and gives its path.
func (c *cluster) kustomize(t *testing.T, base, tag, verb string) string {
	t.Helper()
	args, err := json.Marshal([]string{
		"--containerd-config=" + filepath.Join(c.Place.Dir, "containerd.toml"), "--restart=bash " + c.path("restart.sh"), verb,
	})
	if err != nil {
		t.Fatal(err)
	}
	name := "deploy/" + base + "-" + tag
	components := "../process"
	if verb == "remove" {
		components = ""
	}
	c.write(t, name+"/kustomization.yaml", fmt.Sprintf(overlay, base, components, tag, args))
	return c.path(name)
}

// build builds the installer's image under a tag, which makes it another version, and loads it.
func (c *cluster) build(t *testing.T, tag string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ".ci/cluster-image")
	cmd.Dir = testenv.Tree(t)
	archive := c.path("node-" + tag + ".tar")
	cmd.Env = append(os.Environ(), "IMAGE="+nodeImage+":"+tag, "ARCHIVE="+archive, "MARK="+tag)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cluster-image: %v: %s", err, out)
	}
	c.load(t, archive)
}

// install puts cloister on the node by kubectl apply -k.
func (c *cluster) install(t *testing.T) {
	c.build(t, "1")
	if err := os.CopyFS(c.path("deploy"), os.DirFS(filepath.Join(testenv.Tree(t), "deploy"))); err != nil {
		t.Fatal(err)
	}
	settings := "[workloads]\nblock_devices = true\n"
	if class := os.Getenv("CLOISTER_TEST_CLASS"); class != "" {
		settings = fmt.Sprintf("class = %q\n", class)
	}
	c.write(t, "deploy/node/settings/config.toml", settings)
	c.deploy = "kubernetes"
	if emulated(t) {
		c.deploy = "kubernetes-emulated"
	}
	s := &space{c, "cloister"}
	s.mustNot(t, "get", "runtimeclass", "cloister")
	s.must(t, "apply", "-k", c.kustomize(t, c.deploy, "1", "install"))
	s.rollout(t, "daemonset/cloister-node")
	if got := s.field(t, "node/"+nodeName, `.metadata.labels.io\.cloister/runtime`); got != "true" {
		t.Errorf("the node's label = %q, want true", got)
	}
	t.Logf("the installer said:\n%s", s.must(t, "logs", "daemonset/cloister-node", "-c", "install"))
	reckoned := c.Place.Run(t, "/usr/local/bin/cloister", "install", "kubernetes")
	memory := s.field(t, "runtimeclass/cloister", ".overhead.podFixed.memory")
	if !strings.Contains(reckoned, "memory: "+memory+"\n") {
		t.Errorf("the class in deploy has an overhead of %s; cloister reckons\n%s", memory, reckoned)
	}
	c.Place.Run(t, "/usr/local/bin/cloister", "check")
}

// emulated tells whether this host's processors offer no virtualization.
func emulated(t *testing.T) bool {
	t.Helper()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(info))
	return !slices.Contains(fields, "vmx") && !slices.Contains(fields, "svm")
}

// rollout waits for a rollout and shows what hinders it.
func (s *space) rollout(t *testing.T, object string) {
	t.Helper()
	if out, err := s.try(t, "rollout", "status", object, "--timeout=5m"); err != nil {
		pods, _ := s.try(t, "describe", "pods")
		logs, _ := s.try(t, "logs", object, "--all-containers")
		t.Fatalf("%s: %v: %s\n%s\n%s", object, err, out, pods, logs)
	}
}

// mustNot runs kubectl, which has to fail, and gives what it says.
func (s *space) mustNot(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.try(t, args...)
	if err == nil {
		t.Fatalf("kubectl %s: done, want an error: %s", strings.Join(args, " "), out)
	}
	return out
}

// upgrade rolls another version out while a pod runs: the pod goes on, with its shim of before, and
// new ones start from the new version.
func (c *cluster) upgrade(t *testing.T) {
	s := c.space(t, "upgrade")
	s.sleeper(t, "before")
	old := c.Place.Run(t, "readlink", "-f", "/opt/cloister/current")
	c.build(t, "2")
	system := &space{c, "cloister"}
	system.must(t, "apply", "-k", c.kustomize(t, c.deploy, "2", "install"))
	system.rollout(t, "daemonset/cloister-node")
	if now := c.Place.Run(t, "readlink", "-f", "/opt/cloister/current"); now == old {
		t.Errorf("the version in use is still %s", now)
	}
	if got := s.exec(t, "before", "echo here"); got != "here\n" {
		t.Errorf("the pod from before says %q", got)
	}
	s.sleeper(t, "after")
	c.Place.Run(t, "test", "-d", strings.TrimSpace(old)) // the pod's shim runs from it
	s.must(t, "delete", "pod", "before", "after")
}

// sleeper starts a pod that waits.
func (s *space) sleeper(t *testing.T, name string) {
	t.Helper()
	s.apply(t, fmt.Sprintf(sleeping, name, classLine("cloister")))
	s.ready(t, name)
}

// sleepers starts a pod that waits of each class, named like it.
func (s *space) sleepers(t *testing.T) {
	t.Helper()
	for _, class := range classes {
		s.apply(t, fmt.Sprintf(sleeping, class, classLine(class)))
	}
	s.ready(t, classes...)
}

// sleeping is a pod that waits, with a folder on disk. It ends at once when it is told to.
const sleeping = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo begun; exec sleep 1000"]
    resources: {requests: {cpu: 50m}, limits: {memory: 64Mi, cpu: 500m}}
    volumeMounts: [{name: v, mountPath: /v}]
`

// remove takes cloister back from the node: not while a pod of it runs, and then everything.
func (c *cluster) remove(t *testing.T) {
	s, system := c.space(t, "remove"), &space{c, "cloister"}
	s.sleeper(t, "last")
	system.must(t, "delete", "-k", c.path("deploy/"+c.deploy+"-2"), "--timeout=5m")
	system.must(t, "apply", "-k", c.kustomize(t, "kubernetes-remove", "2", "remove"))
	system.await(t, "what the node waits for", func() string {
		out, _ := system.try(t, "logs", "daemonset/cloister-remove", "-c", "remove", "--tail=5")
		if !strings.Contains(out, "sandboxes on node node: 1 (") {
			return out + " "
		}
		return ""
	})
	if got := s.exec(t, "last", "echo here"); got != "here\n" {
		t.Errorf("the last pod says %q", got)
	}
	s.must(t, "delete", "pod", "last")
	system.rollout(t, "daemonset/cloister-remove")
	if got := s.field(t, "node/"+nodeName, `.metadata.labels.io\.cloister/runtime`); got != "" {
		t.Errorf("the node's label = %q", got)
	}
	left := c.Place.Run(t, "bash", "-c",
		"ls -d /opt/cloister /usr/local/bin/*cloister* /etc/cloister /var/lib/cloister /run/cloister 2>/dev/null || true")
	if left != "" {
		t.Errorf("left on the node:\n%s", left)
	}
	if config := c.Place.Run(t, "cat", filepath.Join(c.Place.Dir, "containerd.toml")); strings.Contains(config, "runtimes.cloister") {
		t.Error("containerd's config still has the runtime")
	}
	system.must(t, "delete", "-k", c.path("deploy/kubernetes-remove-2"), "--timeout=5m")
}
