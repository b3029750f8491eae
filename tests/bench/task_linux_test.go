// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/bed"
)

// tasks measures an exec's calls and streams at the shims' Task API: through ctr, most of the time
// is the client's own, which hides a shim's.
func (b *bench) tasks(t *testing.T) {
	type shim struct {
		task       taskapi.TTRPCTaskService
		id, suffix string
	}
	var shims []shim
	for _, one := range []struct {
		*bed.Bed
		suffix string
	}{{b.Bed, ""}, {&b.runc, " runc"}} {
		id := "task-" + one.Runtime
		one.Start(t, id, nil)
		shims = append(shims, shim{b.dial(t, id), id, one.suffix})
	}
	for i := range b.runs + 1 {
		for _, s := range shims {
			for name, took := range execCalls(t, s.task, fmt.Sprint("e", i), s.id) {
				if i > 0 {
					b.add("task api "+name+s.suffix, took)
				}
			}
		}
	}
	for _, s := range shims {
		for _, took := range b.echoes(t, s.task, s.id) {
			b.add("task api stdio"+s.suffix, took)
		}
		b.Remove(t, s.id)
	}
}

// echoes measures how long 4 KiB take to cat and back.
func (b *bench) echoes(t *testing.T, shim taskapi.TTRPCTaskService, id string) []time.Duration {
	t.Helper()
	var ends []*os.File
	var names []string
	for _, stream := range []string{"in", "out", "err"} {
		name := filepath.Join(b.Dir, id+"-"+stream)
		b.Place.Run(t, "mkfifo", name)
		f, err := os.OpenFile(b.Place.Path(name), os.O_RDWR, 0) // does not wait for the shim
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ends, names = append(ends, f), append(names, name)
	}
	const exec = "echo"
	if _, err := shim.Exec(t.Context(), &taskapi.ExecProcessRequest{
		ID: id, ExecID: exec, Stdin: names[0], Stdout: names[1], Stderr: names[2], Spec: process(t, "cat"),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := shim.Start(t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec}); err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 4096)
	var took []time.Duration
	for i := range 10*b.runs + 1 {
		begin := time.Now()
		if _, err := ends[0].Write(piece); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ends[1], piece); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			took = append(took, time.Since(begin))
		}
	}
	if _, err := shim.Kill(t.Context(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := shim.Wait(t.Context(), &taskapi.WaitRequest{ID: id, ExecID: exec}); err != nil {
		t.Fatal(err)
	}
	if _, err := shim.Delete(t.Context(), &taskapi.DeleteRequest{ID: id, ExecID: exec}); err != nil {
		t.Fatal(err)
	}
	return took
}

// process is what an exec runs.
func process(t *testing.T, args ...string) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}
}

// dial connects to the shim that serves a container.
func (b *bench) dial(t *testing.T, id string) taskapi.TTRPCTaskService {
	t.Helper()
	bundle := filepath.Join("/run/containerd/io.containerd.runtime.v2.task", b.Namespace, id)
	data, err := os.ReadFile(b.Place.Path(filepath.Join(bundle, "bootstrap.json")))
	if err != nil {
		t.Fatal(err)
	}
	var shim struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(data, &shim); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", b.Place.Path(shim.Address[len("unix://"):])) //nolint:noctx // local
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return taskapi.NewTTRPCTaskClient(client)
}

// execCalls runs true and gives the time of each call, and of all.
func execCalls(t *testing.T, shim taskapi.TTRPCTaskService, exec, id string) map[string]time.Duration {
	t.Helper()
	took := map[string]time.Duration{}
	begin := time.Now()
	for _, call := range []struct {
		name string
		run  func() error
	}{
		{"exec: Exec", func() error {
			_, err := shim.Exec(t.Context(), &taskapi.ExecProcessRequest{
				ID: id, ExecID: exec, Spec: process(t, "true"),
			})
			return err
		}},
		{"exec: Start", func() error {
			_, err := shim.Start(t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec})
			return err
		}},
		{"exec: Wait", func() error {
			r, err := shim.Wait(t.Context(), &taskapi.WaitRequest{ID: id, ExecID: exec})
			if err == nil && r.GetExitStatus() != 0 {
				return fmt.Errorf("exit status %d", r.GetExitStatus())
			}
			return err
		}},
		{"exec: Delete", func() error {
			_, err := shim.Delete(t.Context(), &taskapi.DeleteRequest{ID: id, ExecID: exec})
			return err
		}},
	} {
		called := time.Now()
		if err := call.run(); err != nil {
			t.Fatalf("%s of %s: %v", call.name, id, err)
		}
		took[call.name] = time.Since(called)
	}
	took["exec"] = time.Since(begin)
	return took
}
