// SPDX-License-Identifier: Apache-2.0

// Command pods is the lab's client of CRI: it starts and removes pods and containers, with a level
// or without. It also asks a kubelet.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/images"
)

const usage = "usage: pods ENDPOINT run NAME LEVEL | privileged NAME | container POD NAME LEVEL [HOSTS] |\n" +
	"       users NAME LEVEL VOLUME | remove POD\n" +
	"       pods kubelet METHOD ADDRESS"

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pods:", err)
		cancel()
		os.Exit(1) //nolint:gocritic // cancelled
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errors.New(usage)
	}
	if args[0] == "kubelet" {
		body, err := kubelet(ctx, args[1], args[2])
		if err == nil {
			fmt.Print(body)
		}
		return err
	}
	connection, err := grpc.NewClient(args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	cri := runtimeapi.NewRuntimeServiceClient(connection)
	var id string
	switch {
	case args[1] == "run" && len(args) == 4:
		id, err = pod(ctx, cri, config(args[2], &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: options(args[3])}))
	case args[1] == "privileged":
		id, err = pod(ctx, cri, config(args[2], &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}))
	case args[1] == "container" && len(args) == 5:
		id, err = container(ctx, cri, args[2], args[3], args[4])
	case args[1] == "container" && len(args) == 6:
		id, err = container(ctx, cri, args[2], args[3], args[4], &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: args[5]})
	case args[1] == "users" && len(args) == 5:
		id, err = users(ctx, cri, args[2], args[3], args[4])
	case args[1] == "remove":
		err = remove(ctx, cri, args[2])
	default:
		err = errors.New(usage)
	}
	if err == nil {
		fmt.Println(id)
	}
	return err
}

// options ask for a level; CRI fills in the rest. None lets it draw one.
func options(level string) *runtimeapi.SELinuxOption {
	if level == "" {
		return nil
	}
	return &runtimeapi.SELinuxOption{Level: level}
}

func config(name string, security *runtimeapi.LinuxSandboxSecurityContext) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, LogDirectory: "/run/lab/pods",
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: security},
	}
}

func pod(ctx context.Context, cri runtimeapi.RuntimeServiceClient, c *runtimeapi.PodSandboxConfig) (string, error) {
	if err := os.MkdirAll(c.GetLogDirectory(), 0o755); err != nil {
		return "", err
	}
	answer, err := cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
	return answer.GetPodSandboxId(), err
}

// container creates and starts one.
func container(ctx context.Context, cri runtimeapi.RuntimeServiceClient, pod, name, level string, mounts ...*runtimeapi.Mount,
) (string, error) {
	made, err := cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: pod, SandboxConfig: config("plain", nil),
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: images.BusyboxName},
			Command: []string{"sleep", "600"}, LogPath: name + ".log", Mounts: mounts,
			Linux: &runtimeapi.LinuxContainerConfig{
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{SelinuxOptions: options(level)},
			},
		},
	})
	if err != nil {
		return "", err
	}
	_, err = cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
	return made.GetContainerId(), err
}

// users starts a pod with a user namespace, and a container in it that writes to a volume. It gives
// the pod's id and what the container has seen.
func users(ctx context.Context, cri runtimeapi.RuntimeServiceClient, name, level, volume string) (string, error) {
	ids := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
	namespaces := &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Uids: ids, Gids: ids}}
	sandbox := config(name, &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: options(level), NamespaceOptions: namespaces})
	id, err := pod(ctx, cri, sandbox)
	if err != nil {
		return "", err
	}
	made, err := cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: id, SandboxConfig: sandbox,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: images.BusyboxName},
			Command: []string{"sleep", "600"}, LogPath: name + ".log",
			Mounts: []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: volume, UidMappings: ids, GidMappings: ids}},
			Linux: &runtimeapi.LinuxContainerConfig{
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{SelinuxOptions: options(level), NamespaceOptions: namespaces},
			},
		},
	})
	if err != nil {
		return "", err
	}
	if _, err := cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		return "", err
	}
	seen, err := cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: made.GetContainerId(), Timeout: 60,
		Cmd: []string{
			"sh", "-c",
			"touch /root-file /volume/made; chown 7:7 /volume/made; echo $(cat /proc/self/uid_map) $(stat -c %u /bin/busybox " +
				"/root-file /volume /volume/made)",
		},
	})
	return id + "\n" + string(seen.GetStdout()) + string(seen.GetStderr()), err
}

func remove(ctx context.Context, cri runtimeapi.RuntimeServiceClient, pod string) error {
	if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	_, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}
