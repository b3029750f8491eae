// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"encoding/json"
	"path/filepath"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// TestFailedExecLeavesNoProcess: the streams of an exec of a plain container are opened once the
// OCI runtime has made its process. Where that fails, no process stays that nobody knows of, and
// where the runtime makes none, no other process is ended in its place: containerd's name for the
// pid file of the first process is that of an exec named init.
func TestFailedExecLeavesNoProcess(t *testing.T) {
	s := newStageWith(t, host.Options{Class: "process"})
	d := s.newDirect(t, "c")
	must(t, d.create(t.Context(), "c"))
	_, err := d.task.Start(t.Context(), &taskapi.StartRequest{ID: "c"})
	must(t, err)
	fails := func(id, stdout string, args ...string) {
		spec, err := json.Marshal(specs.Process{Args: args, Cwd: "/"})
		must(t, err)
		_, err = d.task.Exec(t.Context(), &taskapi.ExecProcessRequest{
			ID: "c", ExecID: id, Stdout: stdout,
			Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
		})
		must(t, err)
		if r, err := d.task.Start(t.Context(), &taskapi.StartRequest{ID: "c", ExecID: id}); err == nil {
			t.Fatalf("start of exec %s = %v, want an error", id, r)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing")
	fails("init", "", missing) // a program that is not there
	fails("e", missing, "/bin/busybox", "sleep", "1000")
	var left *taskapi.PidsResponse
	if !bed.Await(callLimit, func() bool {
		left, err = d.task.Pids(t.Context(), &taskapi.PidsRequest{ID: "c"})
		return err == nil && len(left.GetProcesses()) == 1
	}) {
		t.Errorf("processes of the container = %v, %v, want its first one alone", left, err)
	}
	_, err = d.task.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: 9, All: true})
	must(t, err)
	_, err = d.task.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"})
	must(t, err)
	_, err = d.task.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"})
	must(t, err)
}
