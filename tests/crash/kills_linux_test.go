// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// TestKilled kills what a running sandbox is made of, and wants its task to be told stopped and its
// rests taken away.
func TestKilled(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	s.events = s.Watch(t)
	before := s.Look(t)
	// All end with 137: for clients a process whose machine is gone was killed.
	tests := []struct {
		name    string
		options []string
		kill    func(t *testing.T, id string)
		want    uint32
	}{
		{"shim", nil, func(t *testing.T, id string) { s.Bed.Kill(t, s.Shim(t, id)) }, 137},
		{"shim with volumes", s.volumes(t), func(t *testing.T, id string) { s.Bed.Kill(t, s.Shim(t, id)) }, 137},
		{"qemu", nil, func(t *testing.T, id string) { s.Bed.Kill(t, s.Marked(t, id, "qemu-system")) }, 137},
		{"virtiofsd", nil, func(t *testing.T, id string) { s.Bed.Kill(t, s.Marked(t, id, "virtiofsd")) }, 137},
		// The machine's only pid is its first process for clients.
		{"pid", nil, func(t *testing.T, id string) {
			s.Bed.Kill(t, s.pid(t, id))
		}, 137},
		// A guest's kernel that panics. The container may do that, since the guest is its own. Two
		// ways, since not every kernel has sysrq.
		{"kernel", []string{"--privileged", "--privileged-without-host-devices"}, func(t *testing.T, id string) {
			s.inGuest(t, id, "echo 2 >/proc/sys/vm/panic_on_oom; echo c >/proc/sysrq-trigger; tail /dev/zero")
		}, 137},
		// The agent hears nothing any more: for the host it is dead.
		{"agent", []string{"--privileged", "--privileged-without-host-devices"}, func(t *testing.T, id string) {
			s.inGuest(t, id, "cd /sys/bus/virtio/drivers/virtio_console && for d in virtio*; do echo $d >unbind; done")
		}, 137},
		{"workload", nil, func(t *testing.T, id string) { s.Must(t, "task", "kill", "--signal", "KILL", id) }, 137},
		{"both", nil, func(t *testing.T, id string) {
			shim, qemu := s.Shim(t, id), s.Marked(t, id, "qemu-system")
			s.Place.Run(t, "kill", "-KILL", fmt.Sprint(shim), fmt.Sprint(qemu))
		}, 137},
	}
	t.Run("kill", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				id := "kill-" + strings.ReplaceAll(tt.name, " ", "-")
				t.Cleanup(func() { s.Remove(t, id) })
				s.Must(t, s.Args(id, append([]string{"--detach"}, tt.options...), "sleep", "1000")...)
				tt.kill(t, id)
				if !bed.Await(callLimit, func() bool { _, seen := s.exited(id); return seen }) {
					t.Fatal("containerd has not reported the task's end")
				}
				if status, _ := s.exited(id); status != tt.want {
					t.Errorf("exit status %d, want %d", status, tt.want)
				}
				s.gone(t, id)
				s.nothingOf(t, before, id)
			})
		}
	})
	// An end that nobody asked for has its reason in the log. That of a guest depends on how it
	// ended.
	for id, reason := range map[string]string{"kill-qemu": "signal: killed", "kill-kernel": "", "kill-agent": ""} {
		s.logged(t, "the machine ended unexpectedly", id, reason)
	}
	s.NothingLeft(t, before)
}

// logged waits for a line of containerd's log that has all words in it.
func (s *stage) logged(t *testing.T, words ...string) {
	t.Helper()
	if wrong := host.Await(host.Patience, func() string {
		log, err := os.ReadFile(s.LogFile)
		if err != nil {
			return err.Error()
		}
	next:
		for line := range strings.Lines(string(log)) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue next
				}
			}
			return ""
		}
		return fmt.Sprintf("no line of containerd's log has %q in it", words)
	}); wrong != "" {
		t.Error(wrong)
	}
}

// inGuest has a command run in a container that may take the whole guest with it.
func (s *stage) inGuest(t *testing.T, id, script string) {
	t.Helper()
	cmd := s.Ctr(t.Context(), "task", "exec", "--exec-id", "end", id, "sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
	})
}

// pid is that of a task, as ctr shows it.
func (s *stage) pid(t *testing.T, id string) int {
	t.Helper()
	var pid int
	for line := range strings.Lines(s.Must(t, "task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			if _, err := fmt.Sscan(fields[1], &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid <= 1 {
		t.Fatalf("task %s has pid %d", id, pid)
	}
	return pid
}

// TestContainerdKilled kills the daemon while containers run, while one is created and while one is
// deleted.
func TestContainerdKilled(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	s.Must(t, s.Args("stays", []string{"--detach"}, "sleep", "1000")...)
	create := s.Ctr(t.Context(), s.Args("half", []string{"--detach"}, "sleep", "1000")...)
	if err := create.Start(); err != nil {
		t.Fatal(err)
	}
	if !bed.Await(callLimit, func() bool { return len(s.Processes(t, "containerd-shim", "-id half ", " serve ")) > 0 }) {
		t.Fatal("the second container's shim does not come")
	}
	s.Stop(t, "KILL")
	_ = create.Wait() // fails: its daemon is gone
	s.Containerd.Start(t)
	if r := s.Exec(t, "stays", "after", "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("exec in a container that ran meanwhile = %+v", r)
	}
	s.Must(t, "task", "kill", "--signal", "KILL", "stays")
	s.AwaitStatus(t, "stays", "STOPPED")
	s.gone(t, "stays")
	s.Remove(t, "half")
	s.NothingLeft(t, before)

	s.Must(t, s.Args("ends", []string{"--detach"}, "sleep", "1000")...)
	s.Stop(t, "KILL")
	s.Bed.Kill(t, s.Shim(t, "ends"))
	s.Containerd.Start(t)
	s.gone(t, "ends")
	s.NothingLeft(t, before)
}

// TestDeleteKilled kills the one that cleans up after a killed shim, after each of its steps: gc,
// and containerd's own second try, do the rest.
func TestDeleteKilled(t *testing.T) {
	s := newStage(t)
	before := s.Look(t)
	const id, cleaner = "c", "delete-c"
	steps := []string{""} // the first time nothing dies
	for i := 0; i < len(steps); i++ {
		s.dieAt(t, cleaner, steps[i])
		s.Must(t, s.Args(id, []string{"--detach"}, "sleep", "1000")...)
		s.Bed.Kill(t, s.Shim(t, id))
		// Where nothing dies, the cleaner's last step is awaited.
		last := cmp.Or(steps[i], "record empty")
		if !bed.Await(callLimit, func() bool {
			reached, _ := os.ReadFile(filepath.Join(s.dir, cleaner+".steps")) // not there at first
			return strings.Contains(string(reached), last+"\n") && len(s.Processes(t, "containerd-shim", "-id "+id+" ")) == 0
		}) {
			t.Fatalf("the cleaner does not reach %q", last)
		}
		if i == 0 {
			steps = append(steps, s.steps(t, cleaner)...)
		} else {
			s.Stop(t, "KILL")
			s.cloister(t, "gc")
			s.Containerd.Start(t)
		}
		s.gone(t, id)
		s.NothingLeft(t, before)
		must(t, os.Remove(filepath.Join(s.dir, cleaner+".steps")))
	}
	if len(steps) < 4 {
		t.Errorf("steps of the cleaner = %q", steps)
	}
	t.Logf("the cleaner was killed at %d steps", len(steps)-1)
}

// TestDeadHost wants gc, and the next start under the same name, to take back what nobody deleted.
func TestDeadHost(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	for _, remedy := range []string{"gc", "start"} {
		t.Run(remedy, func(t *testing.T) {
			t.Cleanup(func() { s.Remove(t, "c") })
			s.Must(t, s.Args("c", []string{"--detach"}, "sleep", "1000")...)
			shim := s.Shim(t, "c")
			s.Stop(t, "KILL")
			s.Bed.Kill(t, shim)
			if remedy == "gc" {
				out := s.cloister(t, "gc")
				if !strings.Contains(out, "took back "+s.Namespace+"/c") {
					t.Errorf("cloister gc = %q", out)
				}
			} else {
				// containerd comes back without a memory of it.
				s.Place.Run(t, "sh", "-c", "cd /run/containerd/io.containerd.runtime.v2.task/"+s.Namespace+" && umount c/rootfs; rm -rf c")
			}
			s.Containerd.Start(t)
			s.Within(t, callLimit, "containers", "delete", "c")
			if remedy == "start" {
				s.Must(t, s.Args("c", []string{"--rm"}, "true")...)
			}
			s.NothingLeft(t, before)
		})
	}
}

// cloister runs the command line in the place.
func (s *stage) cloister(t *testing.T, args ...string) string {
	t.Helper()
	cmd := s.Place.Command(t.Context(), "cloister", args...)
	cmd.Env = s.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cloister %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
