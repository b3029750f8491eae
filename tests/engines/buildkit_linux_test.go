// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// buildkit is BuildKit's daemon, whose OCI worker calls cloister-oci, with a bridge of CNI's.
type buildkit struct {
	*bed

	bin, folder string // its programs, and the folder that is built
}

const (
	buildkitAddress = "unix:///run/buildkitd.sock"
	buildkitNetwork = `{"cniVersion": "1.0.0", "name": "builds", "plugins": [{"type": "bridge", "bridge": "builds0", "isGateway": true,
"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.7.0/24"}]], "dataDir": %q}}]}`
	buildkitConfig = `root = %q
[grpc]
address = [%q]
[worker.containerd]
enabled = false
[worker.oci]
enabled = true
binary = %q
snapshotter = "overlayfs"
networkMode = "cni"
cniConfigPath = %q
cniBinaryPath = %q
defaultCgroupParent = %q
`
)

// TestBuildKit: BuildKit runs the steps of a Dockerfile by cloister-oci.
func TestBuildKit(t *testing.T) {
	b := newBed(t)
	k := &buildkit{bed: b, bin: clients.Need(t, clients.BuildKit, "buildkitd"), folder: filepath.Join(b.Dir, "build")}
	b.keeps = []leaks.Kind{leaks.Mount, leaks.MountNS, leaks.Link, leaks.NetNS} // its snapshots' mounts and its bridge
	parent := b.parent
	b.parent = filepath.Join(parent, "buildkit") // the daemon's own; it stays, with runc too
	busybox, err := os.ReadFile(testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	network, config := filepath.Join(b.Dir, "network.conflist"), filepath.Join(b.Dir, "buildkitd.toml")
	for _, dir := range []string{k.folder, filepath.Join(b.Dir, "config.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		filepath.Join(k.folder, "busybox"): string(busybox),
		// Every step is a client of the daemon's collector of traces.
		filepath.Join(b.Dir, "config.d/sockets.toml"): "[workloads]\nsockets = [\"/run/buildkit/otel-grpc.sock\"]\n",
		network: fmt.Sprintf(buildkitNetwork, filepath.Join(b.Dir, "leases")),
		config: fmt.Sprintf(buildkitConfig, filepath.Join(b.Dir, "buildkit"), buildkitAddress, b.program, network,
			clients.Need(t, clients.CNI, "bridge"), "/"+parent),
	} {
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k.start(t, config)
	tally(t, "buildkit", []part{{"Build", k.testBuild}, {"Failing", k.testFailing}, {"Cancelled", k.testCancelled}})
}

// start starts the daemon, which ends with the test's place, and waits until it serves.
func (k *buildkit) start(t *testing.T, config string) {
	t.Helper()
	log, err := os.Create(filepath.Join(k.Dir, "buildkitd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := k.Command(context.WithoutCancel(t.Context()), filepath.Join(k.bin, "buildkitd"), "--debug", "--config", config)
	cmd.Env, cmd.Stdout, cmd.Stderr = k.env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		k.stop(t, done)
		if data, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the end of buildkitd's log:\n%s", data[max(0, len(data)-4000):])
		}
	})
	if late := host.Await(host.Patience, func() string {
		if r := k.run(t, filepath.Join(k.bin, "buildctl"), "--addr", buildkitAddress, "debug", "workers"); r.code != 0 {
			return r.err
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
}

// stop has the daemon end in good order, with what it has mounted.
func (k *buildkit) stop(t *testing.T, done <-chan struct{}) {
	t.Helper()
	for pid, line := range k.Processes(t) {
		if strings.HasPrefix(line, filepath.Join(k.bin, "buildkitd")+" ") {
			k.must(t, "kill", fmt.Sprint(pid))
		}
	}
	select {
	case <-done:
	case <-time.After(host.Patience):
		t.Error("buildkitd does not end")
	}
}

// build prepares a build of a Dockerfile. What it makes is put into the folder "made".
func (k *buildkit) build(ctx context.Context, t *testing.T, steps string) *exec.Cmd {
	t.Helper()
	text := "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\n" + steps
	if err := os.WriteFile(filepath.Join(k.folder, "Dockerfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := k.Command(ctx, filepath.Join(k.bin, "buildctl"), "--addr", buildkitAddress, "build", "--progress", "plain",
		"--frontend", "dockerfile.v0", "--local", "context="+k.folder, "--local", "dockerfile="+k.folder,
		"--output", "type=local,dest="+filepath.Join(k.Dir, "made"))
	cmd.Env = k.env
	return cmd
}

func (k *buildkit) testBuild(t *testing.T) {
	out, err := k.build(t.Context(), t, `RUN uname -r >/kernel && echo one >/one
RUN --network=none cat /one && ! ip route | grep default && echo two >>/one
RUN --mount=type=cache,target=/cache ping -c 1 10.89.7.1 && echo kept >/cache/kept
USER 1000:1000
RUN --mount=type=tmpfs,target=/scratch id -u && touch /scratch/x
`).CombinedOutput()
	if err != nil {
		t.Fatalf("buildctl build: %v\n%s", err, out)
	}
	kernel, err := os.ReadFile(filepath.Join(k.Dir, "made/kernel"))
	if err != nil || strings.Contains(string(kernel), "cloister") != (k.class != "process") {
		t.Errorf("kernel of a step = %q, %v, class %s", kernel, err, k.class)
	}
	if one, err := os.ReadFile(filepath.Join(k.Dir, "made/one")); err != nil || string(one) != "one\ntwo\n" {
		t.Errorf("what two steps wrote = %q, %v", one, err)
	}
}

func (k *buildkit) testFailing(t *testing.T) {
	out, err := k.build(t.Context(), t, "RUN echo said; exit 9\n").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("exit code: 9")) || !bytes.Contains(out, []byte("said")) {
		t.Errorf("a step that fails: %v, want its output and exit code: 9\n%s", err, out)
	}
}

// testCancelled: the step ends with the build that was given up.
func (k *buildkit) testCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := k.build(ctx, t, "RUN echo begun; sleep 1000\n")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the build ended before its step began: %v", err)
		}
		if strings.HasSuffix(line, " begun\n") {
			break
		}
	}
	if k.running(t) == "" {
		t.Error("no container runs while its step does")
	}
	cancel()
	_ = cmd.Wait() // says that it was killed
	if late := host.Await(host.Patience, func() string { return k.running(t) }); late != "" {
		t.Error(late)
	}
}

// running lists the containers that there are.
func (k *buildkit) running(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(k.oci(t, "list", "--quiet"))
}
