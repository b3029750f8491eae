// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/host"
)

// TestStreamsThatNobodyAskedFor gives processes some of their streams. Those work, the process sees
// no difference, and output that nobody asked for does not stay in the shim's memory.
func TestStreamsThatNobodyAskedFor(t *testing.T) {
	const much = 64 // MiB
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	engine, err := client.New(b.Place.Path(b.Address), client.WithDefaultNamespace(b.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	task := theTask(ctx, t, engine, "c")
	for _, tt := range []struct{ in, out, errs, much bool }{
		{},
		{in: true, much: true},
		{out: true},
		{errs: true},
		{in: true, out: true},
		{in: true, errs: true, much: true},
		{out: true, errs: true},
		{in: true, out: true, errs: true},
	} {
		id := fmt.Sprintf("in-%t-out-%t-errs-%t", tt.in, tt.out, tt.errs)
		t.Run(id, func(t *testing.T) {
			// An interface that holds a nil pointer would be a stream.
			var in io.Reader
			var out, errs io.Writer
			var stdout, stderr bytes.Buffer
			wantOut, wantErrs := "", ""
			if tt.out {
				out, wantOut = &stdout, "out\n"
			}
			if tt.in {
				in = strings.NewReader("told\n")
				if tt.out {
					wantOut = "told\n" + wantOut
				}
			}
			if tt.errs {
				errs, wantErrs = &stderr, "errs\n"
			}
			writes := ""
			if tt.much {
				writes = fmt.Sprintf("dd if=/dev/zero bs=1M count=%d 2>/dev/null || exit 9;", much)
			}
			before := memory(t, b, "c")
			script := "cat; echo out || exit 9; echo errs >&2 || exit 9; " + writes + " exit 7"
			streams := cio.NewCreator(cio.WithStreams(in, out, errs), cio.WithFIFODir(b.Dir))
			code := execs(ctx, t, task, id, script, streams)
			if code != 7 || stdout.String() != wantOut || stderr.String() != wantErrs {
				t.Errorf("exit %d, output %q, errors %q, want 7, %q, %q", code, stdout.String(), stderr.String(), wantOut, wantErrs)
			}
			if grown := memory(t, b, "c") - before; grown > much<<20/2 {
				t.Errorf("the shim has grown by %d KiB for output that nobody asked for", grown>>10)
			}
		})
	}
}

// TestContainerWithInputAlone starts a container that nobody reads.
func TestContainerWithInputAlone(t *testing.T) {
	b := newBed(t, host.Options{})
	t.Cleanup(func() { b.Remove(t, "c") })
	b.Must(t, "container", "create", "--runtime", b.Runtime, image, "c", "sh", "-c", "read -r line; echo $line; [ $line = told ] && exit 7")
	engine, err := client.New(b.Place.Path(b.Address), client.WithDefaultNamespace(b.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	container, err := engine.LoadContainer(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(strings.NewReader("told\n"), nil, nil), cio.WithFIFODir(b.Dir)))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if status := <-ended; status.ExitCode() != 7 {
		t.Errorf("exit %d, %v, want 7", status.ExitCode(), status.Error())
	}
}

func theTask(ctx context.Context, t *testing.T, engine *client.Client, id string) client.Task {
	t.Helper()
	container, err := engine.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// execs runs a script beside the task's first process, and gives its exit status.
func execs(ctx context.Context, t *testing.T, task client.Task, id, script string, streams cio.Creator) uint32 {
	t.Helper()
	spec := &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin"}}
	process, err := task.Exec(ctx, id, spec, streams)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := process.Delete(ctx, client.WithProcessKill); err != nil {
			t.Error(err)
		}
	}()
	ended, err := process.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := process.CloseIO(ctx, client.WithStdinCloser); err != nil {
		t.Error(err)
	}
	status := <-ended
	process.IO().Wait()
	return status.ExitCode()
}

// memory is what the shim of a container has for itself, in bytes.
func memory(t *testing.T, b *bed, id string) int {
	t.Helper()
	text, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/status", b.Shim(t, id))))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
