// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/oci"
)

// inPod makes a spec one of a CRI pod's.
func inPod(kind string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod"}
		if kind == "container" {
			s.Linux.Namespaces = []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", machinePid)},
				{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", machinePid)},
				{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", machinePid)},
			}
		}
	}
}

func (w *world) startNew(req CreateRequest) {
	w.t.Helper()
	_, err := w.r.Create(w.t.Context(), req)
	w.must(err)
	_, err = w.r.Start(w.t.Context(), Ref{Container: req.ID})
	w.must(err)
}

// TestPauseContainer has a pod with a pause container, which the guest never hears of, and a
// member.
func TestPauseContainer(t *testing.T) {
	w := newWorld(t)
	if _, err := w.r.Create(t.Context(), w.request("m", inPod("container"))); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a member without its pod: %v, want failed precondition", err)
	}
	w.took()
	w.startNew(w.request("pod", inPod("sandbox")))
	w.startNew(w.request("m", inPod("container")))
	want := []string{
		"load", "launch pod", "event create pod", "event start pod",
		"add m", "stream", "guest create m", "event create m", "sync m", "guest start m", "event start m",
	}
	if diff := cmp.Diff(want, w.took()); diff != "" {
		t.Errorf("start (-want +got):\n%s", diff)
	}
	for call, err := range map[string]error{
		"exec":  w.r.Exec(t.Context(), w.execRequest("pod", "e")),
		"pause": w.r.Pause(t.Context(), "pod"),
	} {
		if !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s of the pause container = %v, want not implemented", call, err)
		}
	}
	w.must(w.r.Kill(t.Context(), Ref{Container: "pod"}, 1, false)) // the real one handles no SIGHUP
	if state, _ := w.r.State(Ref{Container: "pod"}); state.State != Running {
		t.Errorf("after SIGHUP it is %s", state.State)
	}
	w.must(w.r.Kill(t.Context(), Ref{Container: "m"}, 9, false))
	_, err := w.r.Wait(t.Context(), Ref{Container: "m"})
	w.must(err)
	_, _, err = w.r.Delete(t.Context(), Ref{Container: "m"})
	w.must(err)
	if left := w.left(); !slices.Equal(left, []string{"machine"}) {
		t.Errorf("after the member: %q, want only the machine", left)
	}
	w.must(w.r.Kill(t.Context(), Ref{Container: "pod"}, 15, false))
	_, exited, err := w.r.Delete(t.Context(), Ref{Container: "pod"})
	if err != nil || exited.Status != 0 {
		t.Errorf("Delete of the pod = %+v, %v, want status 0", exited, err)
	}
	steps := w.took()
	if want := []string{"event exit pod 0", "destroy", "event delete pod 0"}; !slices.Equal(steps[len(steps)-3:], want) {
		t.Errorf("the end = %q, want %q", steps[len(steps)-3:], want)
	}
	w.nothingLeft()
}

// TestFailedMemberLeavesThePod undoes the member alone.
func TestFailedMemberLeavesThePod(t *testing.T) {
	for step, want := range map[string][]string{
		"add m": {}, "stream": {"remove m"}, "guest create m": {"remove m"},
	} {
		w := newWorld(t)
		w.startNew(w.request("pod", inPod("sandbox")))
		w.took()
		w.do(step, func() error { return errStep })
		if _, err := w.r.Create(t.Context(), w.request("m", inPod("container"))); !errors.Is(err, errStep) {
			t.Errorf("%s: Create = %v", step, err)
		}
		steps := w.took()
		if got := steps[slices.Index(steps, step)+1:]; !slices.Equal(got, want) {
			t.Errorf("%s: after it %q, want %q", step, got, want)
		}
		w.do(step, nil)
		w.startNew(w.request("m", inPod("container")))
	}
}

// TestJoinedNetwork has a container of no pod run in another's guest and outlive it there.
func TestJoinedNetwork(t *testing.T) {
	w := newWorld(t)
	join := func(pid int) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Namespaces[4].Path = fmt.Sprintf("/proc/%d/ns/net", pid) }
	}
	w.run("a")
	if _, err := w.r.Create(t.Context(), w.request("x", join(machinePid+1))); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a network of the host's: %v, want invalid argument", err)
	}
	if _, err := w.r.Create(t.Context(), w.request("x", nil)); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a second container of no pod: %v, want failed precondition", err)
	}
	if _, err := w.r.Create(t.Context(), w.request("x", func(s *specs.Spec) {
		join(machinePid)(s)
		s.Linux.Sysctl = map[string]string{"vm.max_map_count": "100000"}
	})); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("sysctls of another's kernel: %v, want invalid argument", err)
	}
	w.startNew(w.request("b", join(machinePid)))
	for _, id := range []string{"a", "b"} {
		w.must(w.r.Kill(t.Context(), Ref{Container: id}, 9, false))
		_, err := w.r.Wait(t.Context(), Ref{Container: id})
		w.must(err)
		if id == "a" { // comes back to its own machine
			_, _, err = w.r.Delete(t.Context(), Ref{Container: id})
			w.must(err)
			w.run("a")
			w.must(w.r.Kill(t.Context(), Ref{Container: id}, 9, false))
			_, err = w.r.Wait(t.Context(), Ref{Container: id})
			w.must(err)
		}
		_, _, err = w.r.Delete(t.Context(), Ref{Container: id})
		w.must(err)
	}
	if w.starts != 1 {
		t.Errorf("%d machines, want 1", w.starts)
	}
	w.nothingLeft()
}

func (w *world) pod() PodRequest {
	return PodRequest{Pod: Pod{ID: "pod"}, Bundle: w.dir, Files: map[string][]byte{"hosts": []byte("127.0.0.1 localhost\n")}}
}

// TestSandboxAPIPod has a pod without a container: no event tells of it.
func TestSandboxAPIPod(t *testing.T) {
	w := newWorld(t)
	if _, err := w.r.StartPod(t.Context(), "pod"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("StartPod before CreatePod = %v, want failed precondition", err)
	}
	w.must(w.r.CreatePod(w.pod()))
	second := w.pod()
	second.Pod.ID = "other"
	if err := w.r.CreatePod(second); !errors.Is(err, errdefs.ErrFailedPrecondition) ||
		!strings.Contains(err.Error(), "already serves pod") {
		t.Errorf("CreatePod of a second pod = %v, want a refusal that names the first", err)
	}
	if _, err := w.r.StartPod(t.Context(), "other"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("StartPod of the second pod = %v, want failed precondition", err)
	}
	w.do("launch pod", func() error { return errStep })
	if _, err := w.r.StartPod(t.Context(), "pod"); !errors.Is(err, errStep) {
		t.Errorf("StartPod = %v, want the step's error", err)
	}
	w.do("launch pod", nil)
	pid, err := w.r.StartPod(t.Context(), "pod")
	if err != nil || pid != machinePid {
		t.Fatalf("StartPod = %d, %v", pid, err)
	}
	w.startNew(w.request("m", inPod("container")))
	info, err := w.r.PodInfo("pod")
	want := map[string]string{"bundle": w.dir, "class": "vm", "containers": "m running", "kernel": "fake", "pid": "4711"}
	if diff := cmp.Diff(want, info); err != nil || diff != "" {
		t.Errorf("PodInfo: %v (-want +got):\n%s", err, diff)
	}
	if sum, err := w.r.PodStats(t.Context(), "pod"); err != nil || sum.GetMemory().GetUsage() != 100 || sum.GetPids().GetCurrent() != 2 {
		t.Errorf("PodStats = %v, %v", sum, err)
	}
	w.must(w.r.StopPod(t.Context(), "pod"))
	if e, err := w.r.Wait(t.Context(), Ref{Container: "m"}); err != nil || e.Status != exitGuestDied {
		t.Errorf("the member's end = %+v, %v", e, err)
	}
	w.must(w.r.StopPod(t.Context(), "pod")) // once more
	_, _, err = w.r.Delete(t.Context(), Ref{Container: "m"})
	w.must(err)
	w.must(w.r.ClosePod(t.Context(), "pod"))
	w.must(w.r.ClosePod(t.Context(), "pod"))
	for _, s := range w.took() {
		if strings.HasPrefix(s, "event") && strings.Contains(s, "pod") {
			t.Errorf("published of the pod: %s", s)
		}
	}
	w.nothingLeft()
}

// TestPodContainersGetTheEnginesFiles gives a pod's container the files that the engine left to the
// runtime.
func TestPodContainersGetTheEnginesFiles(t *testing.T) {
	w := newWorld(t)
	w.must(w.r.CreatePod(w.pod()))
	config, err := w.r.configFor(CreateRequest{})
	w.must(err)
	work, err := readWorkload(config.Workloads, w.request("m", inPod("container")).Bundle)
	w.must(err)
	w.r.equip(work, w.dir)
	if len(work.Mounts) != 1 || work.Mounts[0].Destination != "/etc/hosts" || work.Mounts[0].Source != filepath.Join(w.dir, "pod-hosts") {
		t.Errorf("mounts = %+v, want the pod's /etc/hosts", work.Mounts)
	}
}

// TestFolderAtDevShmIsMounted: a folder of the host that a pod's author names for /dev/shm is
// mounted there, as under runc, and is not replaced by the guest's shared memory.
func TestFolderAtDevShmIsMounted(t *testing.T) {
	w := newWorld(t)
	w.must(w.r.CreatePod(w.pod()))
	work := &oci.Workload{Role: oci.Member, SandboxID: "pod", Mounts: []oci.Mount{
		{Kind: oci.BindMount, Purpose: oci.SharedMemory, Source: "/srv/database", Destination: "/dev/shm"},
	}}
	w.r.equip(work, w.dir)
	if got := work.Mounts[0]; got.Purpose != oci.Volume || got.Source != "/srv/database" {
		t.Errorf("mount = %+v, want a volume", got)
	}
}

// TestClientLeavesPod has the client go at each step of a pod's start and end.
func TestClientLeavesPod(t *testing.T) {
	for _, step := range []string{"launch pod", "destroy"} {
		w := newWorld(t)
		ctx, leave := context.WithCancel(t.Context())
		w.do(step, func() error { leave(); return nil })
		w.must(w.r.CreatePod(w.pod()))
		_, _ = w.r.StartPod(ctx, "pod")
		_ = w.r.ClosePod(ctx, "pod")
		w.must(w.r.ClosePod(t.Context(), "pod"))
		w.nothingLeft()
	}
}

// TestFirstContainerOfAnotherPodIsRefused: CRI-O lets a pod's annotations replace its own on the
// pod's first container. One that names another pod comes to that pod's runtime, and would end its
// machine when it is deleted.
func TestFirstContainerOfAnotherPodIsRefused(t *testing.T) {
	w := newWorld(t)
	w.startNew(w.request("pod", inPod("sandbox")))
	w.took()
	_, err := w.r.Create(t.Context(), w.request("another", inPod("sandbox")))
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a first container that names another pod: %v, want invalid argument", err)
		w.must(w.r.Kill(t.Context(), Ref{Container: "another"}, 9, false))
		_, _, err = w.r.Delete(t.Context(), Ref{Container: "another"})
		w.must(err)
	}
	if steps := w.took(); slices.Contains(steps, "destroy") {
		t.Errorf("its end has ended the pod: %q", steps)
	}
}

// TestMemberOfAnotherPodIsRefused: a first container whose annotations make it a later one of
// another pod's would run there, with the sysctls that its own pod's author has chosen.
func TestMemberOfAnotherPodIsRefused(t *testing.T) {
	w := newWorld(t)
	of := func(kind, uid string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			inPod(kind)(s)
			s.Annotations["io.kubernetes.pod.uid"] = uid
		}
	}
	w.startNew(w.request("pod", of("sandbox", "one")))
	w.startNew(w.request("own", of("container", "one")))
	w.startNew(w.request("unlabelled", inPod("container")))
	if _, err := w.r.Create(t.Context(), w.request("other", of("container", "two"))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a container of another pod: %v, want invalid argument", err)
	}
}
