// SPDX-License-Identifier: Apache-2.0

package nerdctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/runtime/v2/logging"
	"github.com/containerd/errdefs"

	"cloister/tests/clients"
)

const (
	hookVerb   = "internal-oci-hook"
	loggerVerb = "internal-logging"

	// annotation names the network namespace where the user chose one; it counts for more than the
	// state's pid.
	annotation = "nerdctl/network-namespace"
	socket     = "/run/containerd/containerd.sock"
)

// TestMain is the program's, which the shim starts with its verbs.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case hookVerb:
		if err := hook(context.Background(), os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case loggerVerb:
		logging.Run(func(ctx context.Context, c *logging.Config, ready func() error) error {
			return record(ctx, os.Args[2], c, ready)
		})
	default:
		os.Exit(m.Run())
	}
}

// state is what a hook reads.
type state struct {
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

// hook makes, or takes away, the container's network: a bridge and a published port, by CNI's own
// plugins.
func hook(ctx context.Context, event, dir string) error {
	var s state
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, event+".json"), fmt.Appendf(nil, "%+v", s), 0o600); err != nil {
		return err
	}
	if info, err := os.Stat(s.Bundle); err != nil || !info.IsDir() {
		return fmt.Errorf("bundle %q: %w", s.Bundle, err)
	}
	namespace := s.Annotations[annotation]
	if namespace == "" && s.Pid != 0 {
		namespace = fmt.Sprintf("/proc/%d/ns/net", s.Pid)
	}
	command, kept := "ADD", filepath.Join(dir, "result.json")
	bridge := map[string]any{
		"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "nerdctl0", "isGateway": true,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(dir, "ipam"),
			"ranges": [][]map[string]string{{{"subnet": "10.4.0.0/24"}}}, "routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	}
	portmap := map[string]any{
		"cniVersion": "1.0.0", "name": "net", "type": "portmap",
		"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}}},
	}
	if event == "poststop" {
		command = "DEL"
		data, err := os.ReadFile(kept)
		if err != nil {
			return err
		}
		portmap["prevResult"] = json.RawMessage(data)
		_, err = plugin(ctx, command, s.ID, namespace, portmap)
		_, errBridge := plugin(ctx, command, s.ID, namespace, bridge)
		return errors.Join(err, errBridge)
	}
	result, err := plugin(ctx, command, s.ID, namespace, bridge)
	if err != nil {
		return err
	}
	portmap["prevResult"] = json.RawMessage(result)
	_, err = plugin(ctx, command, s.ID, namespace, portmap)
	return errors.Join(err, os.WriteFile(kept, result, 0o600))
}

// plugin calls one of CNI's programs.
func plugin(ctx context.Context, command, id, namespace string, config map[string]any) ([]byte, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	dir := clients.Dir(clients.CNI)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, config["type"].(string)))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS="+namespace,
		"CNI_IFNAME=eth0", "CNI_PATH="+dir)
	cmd.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s%s", command, config["type"], err, out, stderr.Bytes())
	}
	return out, nil
}

// record writes both outputs until they end, and meanwhile asks containerd for the container's end,
// as the real one does: from before its task exists, every 100 ms.
func record(ctx context.Context, dir string, c *logging.Config, ready func() error) error {
	file, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer file.Close()
	var group sync.WaitGroup
	var mu sync.Mutex
	for name, stream := range map[string]io.Reader{"out": c.Stdout, "err": c.Stderr} {
		group.Go(func() {
			data, err := io.ReadAll(stream)
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(file, "%s of %s: %s%v\n", name, c.ID, data, err)
		})
	}
	asked, end := awaitEnd(ctx, c, ready)
	group.Wait()
	return os.WriteFile(filepath.Join(dir, "end"), fmt.Appendf(nil, "%d: %s", asked, end), 0o600)
}

// awaitEnd says how often there was no task yet, and how it ended. It is ready once it has asked:
// until then the shim makes none.
func awaitEnd(ctx context.Context, c *logging.Config, ready func() error) (asked int, end string) {
	engine, err := client.New(socket, client.WithDefaultNamespace(c.Namespace))
	if err != nil {
		return 0, err.Error()
	}
	defer engine.Close()
	container, err := engine.LoadContainer(ctx, c.ID)
	if err != nil {
		return 0, err.Error()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		task, err := container.Task(ctx, nil)
		switch {
		case err == nil:
			exited, err := task.Wait(ctx)
			if err != nil {
				return asked, err.Error()
			}
			status := <-exited
			return asked, fmt.Sprintf("exit %d %v", status.ExitCode(), status.Error())
		case !errdefs.IsNotFound(err):
			return asked, err.Error()
		}
		if asked++; asked == 1 {
			if err := ready(); err != nil {
				return asked, err.Error()
			}
		}
	}
}
