// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/testenv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCrun: the runtime that the guest has takes what GuestSpec gives. Cgroups are
// left out here: the host's are not the guest's.
func TestCrun(t *testing.T) {
	testenv.NeedRoot(t)
	crun := testenv.NeedTool(t, "crun")
	busybox := testenv.NeedBusybox(t)
	for _, name := range []string{"ctr-plain", "ctr-full", "docker", "nerdctl", "cri-privileged"} {
		t.Run(name, func(t *testing.T) {
			config, err := os.ReadFile(filepath.Join("testdata", name, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			var s specs.Spec
			if err := json.Unmarshal(config, &s); err != nil {
				t.Fatal(err)
			}
			s.Process.Args = []string{"/bin/sh", "-c", "echo hello from $(id -u) && cat /proc/self/status | grep NoNewPrivs"}
			s.Process.Terminal, s.Process.ConsoleSize = false, nil
			s.Process.OOMScoreAdj = nil // lowering it takes a capability that the machine may not have
			s.Process.Rlimits = nil
			s.Linux.Sysctl = nil // would be set in the test's own network namespace
			if s.Linux.Seccomp != nil {
				s.Linux.Seccomp.DefaultAction = specs.ActAllow // the lists of testdata are shortened
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin", Type: "bind", Source: "/x", Options: []string{"rbind", "ro"}})
			w, err := Parse(encode(t, s), Options{Annotations: []string{AnnotationMemoryMiB}})
			if err != nil {
				t.Fatal(err)
			}
			out := runCrun(t, crun, busybox, w)
			if !strings.Contains(out, "hello from 0") {
				t.Errorf("output: %s", out)
			}
		})
	}
}

func runCrun(t *testing.T, crun, busybox string, w *Workload) string {
	t.Helper()
	bundle := t.TempDir()
	bin, empty := filepath.Join(bundle, "bin"), filepath.Join(bundle, "file")
	for _, d := range []string{bin, filepath.Join(bundle, "rootfs"), filepath.Join(bundle, "folder")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"sh", "id", "cat", "grep"} {
		if err := os.Symlink("busybox", filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	in := GuestInput{
		ID: "cloister-oci-test", Network: "/proc/self/ns/net", IPC: "/proc/self/ns/ipc",
		UTS: "/proc/self/ns/uts", SandboxPid: 4711, MemoryMax: 512 << 20, Sources: map[int]string{},
	}
	for i, m := range w.Mounts {
		switch {
		case m.Destination == "/bin":
			in.Sources[i] = bin
		case m.Purpose.Copied() || m.Purpose == TerminationLog || strings.HasSuffix(m.Destination, ".conf") ||
			strings.HasSuffix(m.Destination, "-init"):
			in.Sources[i] = empty
		case m.Kind == BindMount:
			in.Sources[i] = filepath.Join(bundle, "folder")
		case m.Type == "cgroup":
			in.Skip = append(in.Skip, i)
		}
	}
	config, err := w.GuestSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// crun refuses a host with both kinds of cgroups: show it one. In a cgroup namespace of its own
	// the mount's options are its own, too: outside of one, a mount without nsdelegate takes that
	// option from the host's.
	const alone = `mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`
	out, err := exec.CommandContext(ctx, "unshare", "--mount", "--cgroup", "sh", "-c", alone, "sh",
		crun, "--root", filepath.Join(bundle, "state"), "--cgroup-manager=disabled", "run", "--bundle", bundle, in.ID).CombinedOutput()
	if err != nil {
		t.Fatalf("crun: %v: %s", err, out)
	}
	return string(out)
}
