// SPDX-License-Identifier: Apache-2.0

package nerdctl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cloister/tests/bed"
	"cloister/tests/clients"
	"cloister/tests/host"
)

// TestRun is nerdctl run -d -p 8088:80, stop and rm: with a network namespace of the runtime's
// making, which the hook finds by the state's pid, and with one of the user's.
func TestRun(t *testing.T) {
	clients.Need(t, clients.CNI, "bridge")
	b := bed.New(t, host.Options{Version: host.Current})
	b.Place.Run(t, "ip", "netns", "add", "chosen")
	b.Place.Run(t, "ip", "-n", "chosen", "link", "set", "lo", "up")
	before := b.Look(t)
	for name, namespace := range map[string]string{"the runtime's namespace": "", "the user's namespace": "/run/netns/chosen"} {
		t.Run(name, func(t *testing.T) { live(t, b, namespace) })
	}
	b.Place.Run(t, "ip", "link", "del", "nerdctl0")
	b.NothingLeft(t, before)
}

func live(t *testing.T, b *bed.Bed, namespace string) {
	dir := filepath.Join(b.Dir, "data-"+filepath.Base(namespace))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	engine, err := client.New(b.Place.Path(b.Address), client.WithDefaultNamespace(b.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	t.Cleanup(func() { b.Remove(t, "c") })
	container := create(t, b, engine, dir, namespace)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.NewTask(t.Context(),
		cio.LogURI(&url.URL{Scheme: "binary", Path: program, RawQuery: url.Values{loggerVerb: {dir}}.Encode()}))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := task.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var page []byte
	if !bed.Await(host.Patience, func() bool {
		page, err = b.Place.Command(t.Context(), "bash", "-ec",
			`exec 3<>/dev/tcp/10.4.0.1/8088; printf 'GET /f HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3`).CombinedOutput()
		return string(page) == "page\n"
	}) {
		t.Errorf("the published port gives %q", page)
	}
	if got := b.Exec(t, "c", "hosts", "cat", "/etc/hosts", "/etc/hostname").Stdout; got != "10.4.0.9 far\nbox\n" {
		t.Errorf("hosts and hostname = %q", got)
	}
	if namespace == "" {
		joins(t, b, engine, task.Pid())
	}
	copies(t, b, task.Pid())
	if links := b.Place.Run(t, "nsenter", "-t", fmt.Sprint(task.Pid()), "-n", "ip", "-o", "link", "show",
		"up"); !strings.Contains(links, "cloister0") ||
		strings.Index(links, "cloister0") < strings.Index(links, "eth0") {
		t.Errorf("links of the container's process:\n%swant the engine's before the machine's", links)
	}
	if err := task.Kill(t.Context(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := <-ended; status.ExitCode() != 3 {
		t.Errorf("exit %d, %v, want 3", status.ExitCode(), status.Error())
	}
	if _, err := task.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := container.Delete(t.Context(), client.WithSnapshotCleanup); err != nil {
		t.Error(err)
	}
	left(t, dir, namespace)
}

// copies reads and writes a container's files through the root of its process, as nerdctl cp does.
func copies(t *testing.T, b *bed.Bed, pid uint32) {
	t.Helper()
	root := b.Place.Path(fmt.Sprintf("/proc/%d/root", pid))
	if got, err := os.ReadFile(filepath.Join(root, "www/f")); err != nil || string(got) != "page\n" {
		t.Errorf("a file of the container = %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(root, "tmp/copied"), []byte("copied"), 0o600); err != nil {
		t.Error(err)
	}
	if got := b.Exec(t, "c", "copied", "cat", "/tmp/copied").Stdout; got != "copied" {
		t.Errorf("a file for the container = %q", got)
	}
	// A copy resolves links first and opens the name afterwards: whatever has become a link by then
	// is not followed, and leads to no file of the host.
	const links = "ln -s / /www/root; ln -s ../../../../../../.. /www/up; ln -s /proc/1/root /www/process; ln -s f /www/own"
	b.Exec(t, "c", "links", "sh", "-c", links)
	for _, name := range []string{"root/tmp/made", "up/tmp/made", "process/tmp/made", "own"} {
		if data, err := os.ReadFile(filepath.Join(root, "www", name)); !errors.Is(err, unix.ELOOP) {
			t.Errorf("reading by the link %s = %q, %v, want %v", name, data, err, unix.ELOOP)
		}
		if err := os.WriteFile(filepath.Join(root, "www", name), nil, 0o600); !errors.Is(err, unix.ELOOP) {
			t.Errorf("writing by the link %s = %v, want %v", name, err, unix.ELOOP)
		}
	}
	if to, err := os.Readlink(filepath.Join(root, "www/root")); err != nil || to != "/" {
		t.Errorf("Readlink = %q, %v", to, err)
	}
}

// joins is --network container:NAME: the other's process is the same, and shows the files of
// neither then.
func joins(t *testing.T, b *bed.Bed, engine *client.Client, pid uint32) {
	t.Helper()
	image, err := engine.GetImage(t.Context(), bed.Image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Remove(t, "side") })
	container, err := engine.NewContainer(t.Context(), "side", client.WithImage(image),
		client.WithNewSnapshot("side", image), client.WithRuntime(b.Runtime, nil),
		client.WithNewSpec(oci.WithDefaultSpec(), oci.WithImageConfigArgs(image, []string{"sleep", "1000"}),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pid)}),
			func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
				s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
				return nil
			}))
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.NewTask(t.Context(), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.Exec(t, "c", "port", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").Stdout; got != "7\n" {
		t.Errorf("sysctl of the shared network = %q", got)
	}
	if files, err := os.ReadDir(b.Place.Path(fmt.Sprintf("/proc/%d/root/", task.Pid()))); task.Pid() != pid ||
		err != nil || len(files) != 0 {
		t.Errorf("pid %d, the other's %d, files %v, %v, want none", pid, task.Pid(), files, err)
	}
	b.Remove(t, "side")
}

// create makes the container as nerdctl does: hooks with a large environment, files of /etc,
// annotations.
func create(t *testing.T, b *bed.Bed, engine *client.Client, dir, namespace string) client.Container {
	t.Helper()
	image, err := engine.GetImage(t.Context(), bed.Image)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var mounts []specs.Mount
	for name, text := range map[string]string{"hosts": "10.4.0.9 far\n", "hostname": "box\n", "resolv.conf": "nameserver 10.4.0.1\n"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: file, Options: []string{"bind", "rprivate"}})
	}
	annotations := map[string]string{"nerdctl/name": "web", "nerdctl/networks": `["bridge"]`}
	if namespace != "" {
		annotations[annotation] = namespace
	}
	env := append(b.Env, "LARGE="+strings.Repeat("x", 64<<10))
	hook := func(event string) []specs.Hook {
		return []specs.Hook{{Path: program, Args: []string{program, hookVerb, event, dir}, Env: env}}
	}
	options := []oci.SpecOpts{
		oci.WithDefaultSpec(), oci.WithImageConfigArgs(image, []string{
			"sh", "-c",
			"trap 'exit 3' TERM; mkdir /www; echo page >/www/f; echo out; echo err >&2; httpd -p 80 -h /www; while :; do sleep 0.1; done",
		}),
		oci.WithMounts(mounts), oci.WithAnnotations(annotations), oci.WithHostname("box"), oci.WithDefaultUnixDevices,
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststop: hook("poststop")}
			return nil
		},
	}
	if namespace != "" {
		options = append(options, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: namespace}))
	}
	container, err := engine.NewContainer(t.Context(), "c", client.WithImage(image), client.WithNewSnapshot("c", image),
		client.WithRuntime(b.Runtime, nil), client.WithNewSpec(options...))
	if err != nil {
		t.Fatal(err)
	}
	return container
}

// left is what hooks and logger wrote down.
func left(t *testing.T, dir, namespace string) {
	t.Helper()
	read := func(name string) string {
		var data []byte
		var err error
		if !bed.Await(host.Patience, func() bool { data, err = os.ReadFile(filepath.Join(dir, name)); return err == nil }) {
			t.Errorf("%s: %v", name, err)
		}
		return string(data)
	}
	if got := read("createRuntime.json"); strings.Contains(got, "Pid:0") ||
		!strings.Contains(got, fmt.Sprintf("%s:%s", "nerdctl/name", "web")) || namespace != "" && !strings.Contains(got, namespace) {
		t.Errorf("createRuntime got %s", got)
	}
	if got := read("poststop.json"); !strings.Contains(got, "nerdctl/name:web") {
		t.Errorf("poststop got %s", got)
	}
	if got := read("log"); !strings.Contains(got, "out of c: out\n<nil>") || !strings.Contains(got, "err of c: err\n<nil>") {
		t.Errorf("the logger wrote %q", got)
	}
	var asked int
	end := read("end")
	if _, err := fmt.Sscanf(end, "%d: exit 3 <nil>", &asked); err != nil || asked == 0 {
		t.Errorf("the logger, which asks before there is a task, got %q", end)
	}
}
