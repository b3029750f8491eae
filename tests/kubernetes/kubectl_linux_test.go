// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/console"

	"cloister/tests/host"
)

// image is what the tests' containers run; a tag of its own, since kubelets ask registries for
// "latest".
const image = "docker.io/cloister/busybox:1"

// command prepares kubectl as the cluster's administrator.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := c.Place.Command(ctx, filepath.Join(c.bin, "kubectl"), args...)
	cmd.Env = append(c.Env, "KUBECONFIG="+c.path("admin.conf"))
	return cmd
}

// try runs kubectl and gives what it wrote to both outputs.
func (c *cluster) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), host.CallLimit, fmt.Errorf("kubectl does not end"))
	defer cancel()
	out, err := c.command(ctx, args...).CombinedOutput()
	return string(out), err
}

// space is a namespace of a test's own.
type space struct {
	*cluster
	name string
}

const namespace = `
apiVersion: v1
kind: Namespace
metadata: {name: %s}
`

// requests gives containers without any a request: a pod of class BestEffort would boot its guest
// only while those of other tests are idle.
const requests = `---
apiVersion: v1
kind: LimitRange
metadata: {name: requests}
spec: {limits: [{type: Container, defaultRequest: {cpu: 20m}}]}
`

// space makes a namespace, which is taken away with all that is in it when the test ends. Its
// containers have requests.
func (c *cluster) space(t *testing.T, name string) *space {
	t.Helper()
	return c.makeSpace(t, name, requests)
}

// makeSpace makes a namespace and the objects that its pods need to be there before them.
func (c *cluster) makeSpace(t *testing.T, name, objects string) *space {
	t.Helper()
	s := &space{c, name}
	s.apply(t, fmt.Sprintf(namespace, name)+objects)
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range [][]string{{"describe", "pods"}, {"get", "all", "-o", "wide"}} {
				out, _ := s.try(t, args...)
				t.Logf("kubectl %s:\n%s", strings.Join(args, " "), out)
			}
		}
		if out, err := c.try(t, "delete", "namespace", name, "--timeout=5m"); err != nil {
			t.Errorf("delete namespace: %v: %s", err, out)
		}
	})
	s.await(t, "the account of the namespace's pods", func() string {
		out, err := s.try(t, "get", "serviceaccount", "default")
		if err != nil {
			return out
		}
		return ""
	})
	return s
}

// try runs kubectl in the namespace.
func (s *space) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return s.cluster.try(t, append([]string{"--namespace", s.name}, args...)...)
}

// must runs kubectl in the namespace; a failure fails the test.
func (s *space) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.try(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// apply creates objects of a manifest in which IMAGE stands for the image.
func (s *space) apply(t *testing.T, manifest string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := s.command(ctx, "--namespace", s.name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(manifest, "IMAGE", image))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v: %s\n%s", err, out, manifest)
	}
}

// ready waits until pods are.
func (s *space) ready(t *testing.T, pods ...string) {
	t.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=" + host.CallLimit.String(), "pod"}
	s.must(t, append(args, pods...)...)
}

// field gives a field of an object by its JSON path.
func (s *space) field(t *testing.T, object, path string) string {
	t.Helper()
	return s.must(t, "get", object, "-o", "jsonpath={"+path+"}")
}

// awaitField waits until a field has a value.
func (s *space) awaitField(t *testing.T, object, path, want string) {
	t.Helper()
	s.await(t, object+" "+path, func() string {
		out, err := s.try(t, "get", object, "-o", "jsonpath={"+path+"}")
		if err != nil || out != want {
			return fmt.Sprintf("%q, %v, want %q", out, err, want)
		}
		return ""
	})
}

// await asks for a complaint until there is none.
func (c *cluster) await(t *testing.T, about string, complaint func() string) {
	t.Helper()
	if wrong := host.Await(host.CallLimit, complaint); wrong != "" {
		t.Fatalf("%s: %s", about, wrong)
	}
}

// exec runs a script in a pod's container; "pod" means its first one, "pod/name" another.
func (s *space) exec(t *testing.T, where, script string) string {
	t.Helper()
	out, err := s.tryExec(t, where, script)
	if err != nil {
		t.Fatalf("exec in %s: %v: %s\n%s", where, err, script, out)
	}
	return out
}

func (s *space) tryExec(t *testing.T, where, script string) (string, error) {
	t.Helper()
	pod, container, other := strings.Cut(where, "/")
	args := []string{"exec", pod}
	if other {
		args = append(args, "--container", container)
	}
	return s.try(t, append(args, "--quiet", "--", "sh", "-c", script)...)
}

// input runs kubectl with what it reads and gives both outputs.
func (s *space) input(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := s.command(ctx, append([]string{"--namespace", s.name}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// background runs kubectl until it ends by itself; the function waits and gives both outputs.
func (s *space) background(t *testing.T, args ...string) func() string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	cmd := s.command(ctx, append([]string{"--namespace", s.name}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() string {
		defer cancel()
		if err := cmd.Wait(); err != nil {
			t.Errorf("kubectl %s: %v", strings.Join(args, " "), err)
		}
		return out.String()
	}
}

// terminal runs kubectl on a terminal with what is typed, and gives what the terminal shows. It has
// 33 rows and 111 columns until it shows this size, and then 44 and 122.
func (s *space) terminal(t *testing.T, typed string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := s.command(ctx, append([]string{"--namespace", s.name}, args...)...)
	typing, resized := host.Type(t, typed), false
	r := host.OnTerminal(t, cmd, func(terminal console.Console, shown string) {
		typing(terminal, shown)
		size := console.WinSize{Height: 33, Width: 111}
		if resized = resized || strings.Contains(shown, "33 111"); resized {
			size = console.WinSize{Height: 44, Width: 122}
		}
		if err := terminal.Resize(size); err != nil {
			t.Error(err)
		}
	})
	if r.Code != 0 {
		t.Errorf("kubectl %s: exit %d", strings.Join(args, " "), r.Code)
	}
	return r.Stdout
}
