// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

const (
	limitedMiB  = 256 // what the pod may have
	overheadMiB = 200 // the runtime class's
	ballastMiB  = 200 // what a container takes and gives back
	slackMiB    = 80  // of what it took, what may stay with the machine
)

// ballast fills memory of the guest.
var ballast = fmt.Sprintf("mkdir -p /t && mount -t tmpfs -o size=100%% none /t && dd if=/dev/zero of=/t/x bs=1M count=%d 2>/dev/null",
	ballastMiB)

// TestPodLimits has a pod with limits below a cgroup that bounds it as a kubelet does: the machine
// is in there with limits of its own, gives memory back that its guest has freed, and ends as
// failed, not as OOMKilled, when the host kills it at the bound.
func TestPodLimits(t *testing.T) {
	b := newBed(t, "podsandbox")
	parent := b.cgroup(t)
	p := b.run(t, &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "limited"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: parent,
			Resources: &runtimeapi.LinuxContainerResources{
				MemoryLimitInBytes: limitedMiB << 20,
				CpuShares:          512, CpuQuota: 150000, CpuPeriod: 100000,
			},
			Overhead: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: overheadMiB << 20},
		},
	})
	id := p.start(t, "main", func(c *runtimeapi.ContainerConfig) {
		// to mount
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}},
		}
	}, "sleep", "1000")
	var machine int
	if !step(t, "limits on the host", func(t *testing.T) { machine = limits(t, b, parent, id) }) {
		return
	}
	step(t, "memory given back", func(t *testing.T) {
		sh(t, b, id, ballast)
		full, after := proportional(t, machine), 0
		sh(t, b, id, "umount /t")
		// What the guest's kernel had freed before may have been part of what was taken.
		if wrong := host.Await(host.Patience, func() string {
			if after = proportional(t, machine); after > full-ballastMiB+slackMiB {
				return fmt.Sprintf("the machine had %d MiB with %d MiB of the guest's, and keeps %d after they were freed",
					full, ballastMiB, after)
			}
			return ""
		}); wrong != "" {
			t.Error(wrong)
		}
		t.Logf("QEMU's memory: %d MiB with %d MiB taken in the guest, %d after", full, ballastMiB, after)
	})
	step(t, "the host is out of memory while it runs", func(t *testing.T) {
		bound := proportional(t, machine) + ballastMiB/4 // much of the ballast may be where memory was given back late, or never
		set(t, knob(t, parent, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(bound<<20))
		// It ends in the middle of this.
		_, err := b.cri.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Timeout: 60, Cmd: []string{"sh", "-c", ballast}})
		t.Logf("the call that it ended in: %v", err)
		if s := b.exited(t, id); s.GetExitCode() != 137 || s.GetReason() != "Error" {
			t.Errorf("the container of a machine that the host killed ended with %d, %q, want 137, Error", s.GetExitCode(), s.GetReason())
		}
		if want := "the host was out of memory in the machine's cgroup " + parent; !strings.Contains(value(t, b.LogFile), want) {
			t.Errorf("containerd's log does not say %q", want)
		}
		p.remove(t)
		nothingLeft(t, b)
	})
}

// limits compares what the host's kernel and the guest hold against what the pod was given, and
// gives QEMU's pid.
func limits(t *testing.T, b *bed, parent, id string) (machine int) {
	t.Helper()
	memory := knob(t, parent+"/*", "memory", "memory.limit_in_bytes", "memory.max")
	// 600 is more than QEMU needs with emulation: translated code alone may take 128 MiB.
	if limit, _ := strconv.Atoi(value(t, memory)); limit>>20 < limitedMiB || limit>>20 > limitedMiB+600 {
		t.Errorf("%s = %d MiB, want the pod's %d and at most 600 for the guest's kernel, QEMU and its helpers",
			memory, limit>>20, limitedMiB)
	}
	cpu := knob(t, parent+"/*", "cpu", "cpu.shares", "cpu.weight")
	if got := value(t, cpu); got != "512" && got != "20" { // 1 + (shares-2) * 9999 / 262142
		t.Errorf("%s = %s, want 512 shares or their weight, 20", cpu, got)
	}
	for _, group := range []string{filepath.Dir(memory), filepath.Dir(cpu)} {
		machine = 0
		for pid := range strings.FieldsSeq(value(t, filepath.Join(group, "cgroup.procs"))) {
			if strings.HasPrefix(value(t, "/proc/"+pid+"/comm"), "qemu-system") {
				machine, _ = strconv.Atoi(pid)
			}
		}
		if machine == 0 {
			t.Fatalf("the machine is not in %s", group)
		}
	}
	if got := sh(t, b, id, "nproc"); got != "2\n" {
		t.Errorf("the guest has %s processors, want what a quota of 1.5 needs, 2", strings.TrimSpace(got))
	}
	total, _ := strconv.Atoi(strings.TrimSpace(sh(t, b, id, "awk '/MemTotal/ { print $2 }' /proc/meminfo")))
	// The reserve is 96 MiB, of which the kernel keeps a part to itself.
	if total>>10 < limitedMiB || total>>10 > limitedMiB+100 {
		t.Errorf("the guest has %d MiB, want the pod's %d and its kernel's part", total>>10, limitedMiB)
	}
	return machine
}

// sh runs a script in a container, which must succeed.
func sh(t *testing.T, b *bed, id, script string) string {
	t.Helper()
	out, code := b.exec(t, id, script)
	if code != 0 {
		t.Fatalf("%s = exit %d, %s", script, code, out)
	}
	return out
}

// knob finds a control file of the only cgroup that group matches, in a hierarchy of version 1 or
// in that of version 2.
func knob(t *testing.T, group, controller, v1, v2 string) string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + controller + group + "/" + v1, "/sys/fs/cgroup" + group + "/" + v2} {
		names, _ := filepath.Glob(pattern)
		found = append(found, names...)
	}
	if len(found) != 1 {
		t.Fatalf("%s or %s of %s: found %v, want one", v1, v2, group, found)
	}
	return found[0]
}

func value(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func set(t *testing.T, file, to string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(to), 0); err != nil {
		t.Fatal(err)
	}
}

// proportional is a process's share of the host's memory in MiB.
func proportional(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(value(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
		if fields := strings.Fields(line); fields[0] == "Pss:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib >> 10
		}
	}
	t.Fatalf("no Pss for process %d", pid)
	return 0
}
