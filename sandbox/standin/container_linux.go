// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ctroci "github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/labels"
	"cloister/sandbox/config"
	"cloister/sandbox/confine"
	"cloister/sandbox/crun"
	"cloister/sandbox/plan"
	"cloister/sandbox/process"
	"cloister/sandbox/prove"
	"cloister/sandbox/statedir"
)

// Container is a plain container that was made to be attacked, and to attack from. It is prove's
// Domain: with all layers a program is an exec of the container, as an engine asks for one; with
// some of them it is a container of the same configuration without the others.
type Container struct {
	service   *process.Service
	config    process.Config
	dir       statedir.Dir
	bundle    string
	namespace string
	mac       confine.MAC
	first     streams // of process 1
	end       end     // of process 1
	started   int     // names execs and containers
}

// What is in a bundle: the program by its name in the container, a volume, and places for attacks.
const (
	programName = "cloister"
	volumeName  = "volume"
	mountName   = "mount"
)

// processType is containerd's name for a process of the runtime specification.
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// NewContainer starts a container of the host's configuration whose process 1 is program with the
// argument that has it wait. It makes the bundle, and it takes the capabilities, seccomp filter,
// namespaces and devices that containerd gives by default: what an engine would give more or less
// is not cloister's. From now on this process collects its children: see process.New. On an error
// nothing is left but the bundle.
func NewContainer(ctx context.Context, cfg config.Config, namespace, id, bundle, program, waits string) (*Container, error) {
	runtime, err := crun.Find(cfg.Process.Runtime)
	if err != nil {
		return nil, err
	}
	c := &Container{bundle: bundle, namespace: namespace, end: make(end), config: process.Config{
		Host: cfg.Recovery(), Runtime: runtime, Rules: cfg.LabelRules(), Workloads: cfg.Workloads,
	}}
	if c.dir, err = statedir.New(c.config.Host.State, namespace, id); err != nil {
		return nil, err
	}
	if c.mac, err = confine.Chosen(cfg.Labels); err != nil {
		return nil, err
	}
	if c.mac == confine.SELinux { // other drivers refuse a volume that is to be labelled
		c.config.Rules = append(c.config.Rules, plan.LabelRule{Folder: c.path(volumeName), Sharing: labels.Private})
	}
	if err := c.fill(program); err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	if err := c.writeSpec(ctx, id, waits); err != nil {
		return nil, err
	}
	load := func(string, *taskapi.CreateTaskRequest) (process.Config, error) { return c.config, nil }
	if c.service, err = process.New(ctx, load, namespace, c.end, nobody, func() {}); err != nil {
		return nil, err
	}
	if c.first, err = c.streams(ctx, "first"); err == nil {
		_, err = c.service.Create(ctx, &taskapi.CreateTaskRequest{
			ID: id, Bundle: bundle, Stdin: c.first.in, Stdout: c.first.out, Stderr: c.first.out,
		})
	}
	if err == nil {
		_, err = c.service.Start(ctx, &taskapi.StartRequest{ID: id})
	}
	if err == nil {
		err = prove.Ready(bufio.NewReader(c.first))
	}
	if err != nil {
		return nil, errors.Join(err, c.Destroy(ctx))
	}
	return c, nil
}

// nobody are the clients of the container's service, which is called from here.
func nobody() []int { return nil }

// end takes the container's events, and is closed with that of the end of process 1. The service
// tells Wait of the end before it has written that down: a container that is deleted between the
// two makes it complain.
type end chan struct{}

func (e end) Publish(_ context.Context, event any) error {
	if exit, ok := event.(*events.TaskExit); ok && exit.GetID() == exit.GetContainerID() {
		close(e)
	}
	return nil
}

// fill makes the container's files. The program is its own copy, since files of a sandbox have its
// label.
func (c *Container) fill(program string) error {
	rootfs := filepath.Join(c.bundle, "rootfs")
	for _, name := range []string{filepath.Join(rootfs, mountName), c.path(volumeName), c.path("streams")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(rootfs, programName), text, 0o755), //nolint:gosec // the container executes it
		os.WriteFile(c.path(volumeName, "secret"), []byte("secret"), 0o600),
	)
}

func (c *Container) path(names ...string) string {
	return filepath.Join(append([]string{c.bundle}, names...)...)
}

// writeSpec writes the engine's config.json.
func (c *Container) writeSpec(ctx context.Context, id, waits string) error {
	spec, err := ctroci.GenerateSpec(ctx, nil, &containers.Container{ID: id},
		seccomp.WithDefaultProfile(), ctroci.WithRootFSPath("rootfs"), ctroci.WithProcessArgs("/"+programName, waits),
		func(_ context.Context, _ ctroci.Client, _ *containers.Container, s *ctroci.Spec) error {
			s.Linux.CgroupsPath = c.cgroup()
			return nil
		})
	if err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	mounts, _ := all["mounts"].([]any)
	all["mounts"] = append(mounts, map[string]any{
		"destination": "/" + volumeName, "type": "bind", "source": c.path(volumeName), "options": []string{"rbind", "rw"},
	})
	if text, err = json.Marshal(all); err != nil {
		return err
	}
	return os.WriteFile(c.path("config.json"), text, 0o600)
}

// id is the container's.
func (c *Container) id() string { return string(c.dir.ID()) }

// cgroup is the container's. It is where machines have theirs: no folder of its own is left.
func (c *Container) cgroup() string { return "/cloister/" + c.id() }

// MAC is the driver that confines the container.
func (c *Container) MAC() string { return string(c.mac) }

// Layers are those that the container has.
func (c *Container) Layers() []prove.Layer {
	layers := []prove.Layer{prove.User, prove.Seccomp, prove.Root, prove.Namespaces, prove.Cgroup}
	if c.mac != confine.None {
		layers = append([]prove.Layer{prove.MAC}, layers...)
	}
	return layers
}

// Files are the container's files on the host, by what they are. A folder's name ends with /.
func (c *Container) Files() map[string]string {
	return map[string]string{
		"root file system": c.path("rootfs") + "/", "volume": c.path(volumeName, "secret"), "record": c.dir.Record(),
	}
}

// Program is the path of the attacker's program on the host, labelled as the container's files are.
func (c *Container) Program() string { return c.path("rootfs", programName) }

// Destroy ends the container and takes back all that it did on the host. The bundle stays.
func (c *Container) Destroy(ctx context.Context) error {
	ctx = namespaces.WithNamespace(context.WithoutCancel(ctx), c.namespace)
	var err error
	if !c.service.Empty() {
		err = c.gone(ctx, "")
	}
	if c.first.close != nil {
		err = errors.Join(err, c.first.close())
	}
	// Only if something is left: on cgroup v1 the service that has been closed goes on closing a
	// descriptor by its number, which is another file's by then.
	if !c.service.Empty() {
		err = errors.Join(err, c.service.Close(ctx))
	}
	return err
}

// gone kills a process of the container, empty for its first one, waits for it, and has the service
// forget it. How it ended is the error. One that has ended cannot be killed, and is waited for.
func (c *Container) gone(ctx context.Context, exec string) error {
	_, _ = c.service.Kill(ctx, &taskapi.KillRequest{ID: c.id(), ExecID: exec, Signal: uint32(unix.SIGKILL), All: exec == ""})
	answer, err := c.service.Wait(ctx, &taskapi.WaitRequest{ID: c.id(), ExecID: exec})
	switch {
	case err != nil:
	case exec == "":
		<-c.end
	default:
		err = fmt.Errorf("exit status %d", answer.GetExitStatus())
	}
	_, failed := c.service.Delete(ctx, &taskapi.DeleteRequest{ID: c.id(), ExecID: exec})
	return errors.Join(err, failed)
}

// Start starts a program in the container, with these layers alone.
func (c *Container) Start(ctx context.Context, cmd *exec.Cmd, _ confine.Role, with []prove.Layer) (prove.Process, error) {
	var p prove.Process
	var err error
	switch len(with) {
	case len(c.Layers()):
		p, err = c.exec(ctx, cmd.Args[1:])
	default:
		p, err = c.run(ctx, cmd, with)
	}
	if err != nil {
		return nil, fmt.Errorf("program in a container with %v: %w", with, err)
	}
	return p, nil
}

// inside is a process that the container's service has started.
type inside struct {
	streams

	container *Container
	exec      string
	pid       int
}

func (p inside) PID() int { return p.pid }

func (p inside) End() error {
	ctx := namespaces.WithNamespace(context.Background(), p.container.namespace) // also when the run was ended
	return errors.Join(p.container.gone(ctx, p.exec), p.close())
}

// exec runs the program as an engine's exec, which the service reads back.
func (c *Container) exec(ctx context.Context, args []string) (prove.Process, error) {
	var spec struct {
		Process map[string]any `json:"process"`
	}
	text, err := os.ReadFile(c.path("config.json"))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		return nil, err
	}
	spec.Process["args"] = append([]string{"/" + programName}, args...)
	if text, err = json.Marshal(spec.Process); err != nil {
		return nil, err
	}
	c.started++
	name := "attack-" + strconv.Itoa(c.started)
	ctx = namespaces.WithNamespace(ctx, c.namespace)
	s, err := c.streams(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := c.service.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: c.id(), ExecID: name, Stdin: s.in, Stdout: s.out, Stderr: s.out,
		Spec: &anypb.Any{TypeUrl: processType, Value: text},
	}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	started, err := c.service.Start(ctx, &taskapi.StartRequest{ID: c.id(), ExecID: name})
	if err != nil {
		_, failed := c.service.Delete(context.WithoutCancel(ctx), &taskapi.DeleteRequest{ID: c.id(), ExecID: name})
		return nil, errors.Join(err, failed, s.close())
	}
	return inside{s, c, name, int(started.GetPid())}, nil
}

// streams are a process's FIFOs, as an engine makes them.
type streams struct {
	in, out string
	close   func() error

	io.Reader
	io.Writer
}

// streams makes the FIFOs of a process of the container.
func (c *Container) streams(ctx context.Context, name string) (streams, error) {
	s := streams{in: c.path("streams", name+"-in"), out: c.path("streams", name+"-out")}
	in, err := fifo.OpenFifo(ctx, s.in, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return s, err
	}
	out, err := fifo.OpenFifo(ctx, s.out, syscall.O_RDONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return s, errors.Join(err, in.Close())
	}
	s.Writer, s.Reader = in, out
	s.close = func() error { return errors.Join(in.Close(), out.Close(), os.Remove(s.in), os.Remove(s.out)) }
	return s, nil
}
