// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// counts of the steps, for the closing line.
type counts struct{ passed, failed, skipped atomic.Int32 }

var total counts // TestMain prints it

// suiteRan holds what containerd's suite gave, once it has run.
var suiteRan struct {
	results map[string]int
	runc    [3]int // passed, failed, skipped with runc, from the list
}

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Printf("pods: %d passed, %d failed, %d skipped\n", total.passed.Load(), total.failed.Load(), total.skipped.Load())
	if r := suiteRan.results; r != nil {
		fmt.Printf("cri: %d passed, %d failed, %d skipped (runc: %d, %d, %d)\n", r["pass"], r["fail"],
			r["skip"], suiteRan.runc[0], suiteRan.runc[1], suiteRan.runc[2])
	}
	os.Exit(code)
}

// step is a subtest that is counted.
func step(t *testing.T, name string, f func(t *testing.T)) bool {
	t.Helper()
	return t.Run(name, func(t *testing.T) {
		defer func() {
			switch {
			case t.Failed():
				total.failed.Add(1)
			case t.Skipped():
				total.skipped.Add(1)
			default:
				total.passed.Add(1)
			}
		}()
		f(t)
	})
}

// bed is a containerd with CRI, a bridge of CNI's, and the images.
type bed struct {
	*host.Containerd
	cri runtimeapi.RuntimeServiceClient
}

// criConfig is for the current containerd. Scores below the daemon's own cannot be set without
// CAP_SYS_RESOURCE, which a container that runs the tests may lack (restrict_oom_score_adj). The
// host's AppArmor is not what is tested. The class privileged differs in one setting alone.
const criConfig = `
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%q]
    conf_dir = %q
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "cloister"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.cloister]
      runtime_type = %q
      sandboxer = %q
      privileged_without_host_devices = %t
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.privileged]
      runtime_type = %[3]q
      sandboxer = %[4]q
      privileged_without_host_devices = true
`

// oldConfig is the same for containerd 1.6, which knows no sandboxer.
const oldConfig = `
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "` + images.PauseName + `"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "cloister"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cloister]
      runtime_type = %q
`

const bridge = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.85.0.0/24"}],[{"subnet":"fd85::/64"}]],
"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}`

const pointToPoint = `{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","mtu":1400,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.86.0.0/24"}],[{"subnet":"fd86::/64"}]],
"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}`

const cloister = "io.containerd.cloister.v2"

// setup says what a bed is.
type setup struct {
	runtime   string // of both classes; default: what the environment names, else cloister
	sandboxer string // default: podsandbox
	network   string // CNI's configuration; default: bridge
	env       []string
	trusted   bool // the default class may be privileged in the guest

	version host.Version // default: current
}

// options are a daemon's, whose network is in conf.
func (s setup) options(t *testing.T, conf string) host.Options {
	t.Helper()
	runtime, plugins := cmp.Or(s.runtime, os.Getenv("CLOISTER_TEST_RUNTIME"), cloister), clients.Need(t, clients.CNI, "bridge")
	o := host.Options{Version: s.version, CRI: true, Env: s.env}
	if s.version == host.Distribution {
		o.Config = fmt.Sprintf(oldConfig, plugins, conf, runtime)
	} else {
		o.Config = fmt.Sprintf(criConfig, plugins, conf, runtime, cmp.Or(s.sandboxer, "podsandbox"), s.trusted)
	}
	return o
}

// newBed starts containerd in a place of its own.
func newBed(t *testing.T, sandboxer string) *bed {
	t.Helper()
	return setup{sandboxer: sandboxer}.start(t, host.New(t))
}

func (s setup) start(t *testing.T, place *host.Place) *bed {
	t.Helper()
	program := testenv.NeedSandbox(t)
	set, err := images.Set(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	conf := netConf(place)
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "10-pods.conflist"),
		fmt.Appendf(nil, cmp.Or(s.network, bridge), filepath.Join(place.Dir, "ipam")), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bed{Containerd: place.StartContainerd(t, s.options(t, conf))}
	archive := filepath.Join(place.Dir, "images.tar")
	if err := images.Save(archive, set); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "--namespace", "k8s.io", "images", "import", archive)
	connection, err := grpc.NewClient("unix://"+place.Path(b.Address),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(b.bounded(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	b.cri = runtimeapi.NewRuntimeServiceClient(connection)
	b.ready(t)
	awaitImages(t, runtimeapi.NewImageServiceClient(connection), set)
	return b
}

// awaitImages waits until CRI has the images that were imported: it learns of them by events, and
// until then asks a registry.
func awaitImages(t *testing.T, store runtimeapi.ImageServiceClient, set map[string]v1.Image) {
	t.Helper()
	if wrong := host.Await(host.Patience, func() string {
		for name := range set {
			answer, err := store.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
			if err != nil || answer.GetImage() == nil {
				return fmt.Sprintf("image %s: not known to CRI: %v", name, err)
			}
		}
		return ""
	}); wrong != "" {
		t.Fatal(wrong)
	}
}

// bounded ends a call that does not come back, and tells where the shims are then.
func (b *bed) bounded(t *testing.T) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, connection *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		ctx, cancel := context.WithTimeout(ctx, host.CallLimit)
		defer cancel()
		err := invoke(ctx, method, req, reply, connection, options...)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			b.Stacks(t)
		}
		return err
	}
}

// netConf is the folder of CNI's configuration.
func netConf(place *host.Place) string { return filepath.Join(place.Dir, "net.d") }

// ready waits until CRI says that the runtime and its network are.
func (b *bed) ready(t *testing.T) {
	t.Helper()
	wrong := host.Await(host.Patience, func() string {
		status, err := b.cri.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			return err.Error()
		}
		for _, c := range status.GetStatus().GetConditions() {
			if (c.GetType() == "RuntimeReady" || c.GetType() == "NetworkReady") && !c.GetStatus() {
				return c.GetType() + ": " + c.GetMessage()
			}
		}
		return ""
	})
	if wrong != "" {
		t.Fatal(wrong)
	}
}

// cgroup makes a parent for a pod's cgroups in every hierarchy, as a kubelet does.
func (b *bed) cgroup(t *testing.T) string {
	t.Helper()
	name := "cri-" + filepath.Base(b.Place.Dir)
	controllers, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		controllers = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, c := range controllers {
		dir := filepath.Join(filepath.Dir(c), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Logf("cgroup: %v", err)
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Errorf("the pod's cgroup: %v", err)
			}
		})
	}
	return "/" + name
}

// pod is a sandbox and how it was asked for.
type pod struct {
	*bed
	id     string
	config *runtimeapi.PodSandboxConfig
}

// run starts a pod, which is removed when the test ends.
func (b *bed) run(t *testing.T, config *runtimeapi.PodSandboxConfig) *pod {
	t.Helper()
	return b.runAs(t, config, "")
}

// runAs starts a pod of a runtime class.
func (b *bed) runAs(t *testing.T, config *runtimeapi.PodSandboxConfig, class string) *pod {
	t.Helper()
	name := config.GetMetadata().GetName()
	config.Metadata.Namespace, config.Metadata.Uid = "default", name
	config.LogDirectory = filepath.Join(b.Place.Dir, "logs", name)
	if err := os.MkdirAll(config.GetLogDirectory(), 0o755); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	answer, err := b.cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: class})
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	t.Logf("RunPodSandbox took %s", time.Since(begin).Round(time.Millisecond))
	p := &pod{bed: b, id: answer.GetPodSandboxId(), config: config}
	t.Cleanup(func() { p.remove(t) })
	return p
}

// remove stops a pod and takes it away; what is gone already does not matter.
func (p *pod) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), host.Patience)
	defer cancel()
	if _, err := p.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Errorf("StopPodSandbox: %v", err)
	}
	if _, err := p.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Errorf("RemovePodSandbox: %v", err)
	}
}

// create makes a container in the pod.
func (p *pod) create(t *testing.T, name string, change func(*runtimeapi.ContainerConfig), command ...string) string {
	t.Helper()
	answer, err := p.cri.CreateContainer(t.Context(),
		&runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: p.container(name, change, command...), SandboxConfig: p.config})
	if err != nil {
		t.Fatalf("CreateContainer %s: %v", name, err)
	}
	return answer.GetContainerId()
}

// container is the configuration of a container in the pod.
func (p *pod) container(name string, change func(*runtimeapi.ContainerConfig), command ...string) *runtimeapi.ContainerConfig {
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: images.BusyboxName},
		Command:  command, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{},
	}
	if change != nil {
		change(config)
	}
	return config
}

// start creates and starts a container.
func (p *pod) start(t *testing.T, name string, change func(*runtimeapi.ContainerConfig), command ...string) string {
	t.Helper()
	id := p.create(t, name, change, command...)
	if _, err := p.cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatalf("StartContainer %s: %v", name, err)
	}
	return id
}

// exec runs a script in a container and gives its output.
func (b *bed) exec(t *testing.T, container, script string) (string, int32) {
	t.Helper()
	answer, err := b.cri.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: container,
		Cmd:         []string{"sh", "-c", script}, Timeout: 60,
	})
	if err != nil {
		t.Fatalf("ExecSync %s: %v", script, err)
	}
	return string(answer.GetStdout()) + string(answer.GetStderr()), answer.GetExitCode()
}

// status gives a container's status.
func (b *bed) status(t *testing.T, container string) *runtimeapi.ContainerStatus {
	t.Helper()
	answer, err := b.cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		t.Fatalf("ContainerStatus: %v", err)
	}
	return answer.GetStatus()
}

// exited waits for a container's end.
func (b *bed) exited(t *testing.T, container string) *runtimeapi.ContainerStatus {
	t.Helper()
	if wrong := host.Await(host.Patience, func() string {
		if s := b.status(t, container).GetState(); s != runtimeapi.ContainerState_CONTAINER_EXITED {
			return s.String()
		}
		return ""
	}); wrong != "" {
		t.Fatalf("the container is %s, want exited", wrong)
	}
	return b.status(t, container)
}
