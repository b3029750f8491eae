// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// TestPodmanProcess: plain containers on the host, by the same command line.
func TestPodmanProcess(t *testing.T) {
	p := newPodman(t, "netavark", "process")
	tally(t, "podmanprocess", []part{
		{"Run", p.testRun},
		{"Terminal", p.testTerminal},
		{"Lifecycle", p.testLifecycle},
		{"Exec", p.testExec},
		{"Copy", p.testCopy},
		{"Ports", p.testPorts},
		{"Volumes", p.testVolumes},
		{"Limits", p.testLimits},
		{"Look", p.testLook},
		{"Pod", p.testPod},
		{"Kube", p.testKube},
		{"Notify", p.testNotify},
		{"Labels", p.testLabels},
		{"Split", p.testSplit},
	})
	tally(t, "buildahprocess", []part{{"Build", p.testBuild}})
}

// testLabels: Podman writes the values of --security-opt label= where cloister-oci reads them. With
// mac = "none" they mean nothing, and the container runs; the lab has a host that enforces.
func (p *podman) testLabels(t *testing.T) {
	t.Cleanup(func() { p.ok(t, "rm", "--force", "--ignore", "one") })
	for _, tt := range []struct {
		options []string
		want    string
	}{
		{[]string{"label=disable"}, "disable"},
		{[]string{"label=type:nothing_t"}, "type:nothing_t"},
		{[]string{"label=level:s0:c1,c2", "label=disable"}, "level:s0:c1,c2,label=disable"},
	} {
		args := []string{"--name", "one"}
		for _, o := range tt.options {
			args = append(args, "--security-opt", o)
		}
		p.ok(t, append(append([]string{"run"}, args...), images.BusyboxName, "true")...)
		got := strings.TrimSpace(p.ok(t, "inspect", "-f", `{{index .Config.Annotations "io.podman.annotations.label"}}`, "one"))
		if got != tt.want {
			t.Errorf("Podman passes %q on as %q, want %q", tt.options, got, tt.want)
		}
		p.ok(t, "rm", "one")
	}
}

// unit runs a program in the cgroup unit below a folder, as on a host with cgroup v2 alone. In a
// cgroup namespace of its own, the mounts leave the options of the host's alone. What the host has
// of cgroup v1 is still mounted, in /mnt: a guest's shim takes its controllers from there. A group
// of cpuset takes no process before it has processors, so that one is left out.
const unit = `group=$1 && shift && echo $$ >$group/cgroup.procs || exit
v1=$(awk '$3 == "cgroup" && $4 !~ /cpuset/ { print $2 ":" $4 }' /proc/mounts)
for h in $v1; do mkdir -p ${h%%:*}/${group##*/} && echo $$ >${h%%:*}/${group##*/}/cgroup.procs || exit; done
v1="$v1" exec unshare --mount --cgroup sh -c '
umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /mnt || exit
for h in $v1; do d=/mnt/$(basename ${h%%:*}) && mkdir $d && mount -t cgroup -o ${h#*:} cgroup $d || exit; done
mkdir -p /sys/fs/cgroup/unit && echo $$ >/sys/fs/cgroup/unit/cgroup.procs && exec "$@"' sh "$@"`

// control runs a program as systemd runs what a unit has later (Delegate=): beside the groups that
// Podman has made below a folder, in the namespaces of a process. Nobody can join the unit's own
// group once controllers are on in it.
const control = `mkdir -p $1/unit/.control && echo $$ >$1/unit/.control/cgroup.procs && process=$2 && shift 2 &&
exec nsenter --target "$process" --mount --cgroup "$@"`

// testSplit is --cgroups=split, as units of quadlet have it: the container's cgroup is below the
// one in which Podman runs, beside conmon's. A guest's QEMU is in it. A plain container is run by
// runc: crun locks memory for the program that filters devices, which takes CAP_SYS_RESOURCE.
func (p *podman) testSplit(t *testing.T) {
	top := filepath.Join("/sys/fs/cgroup/unified", p.parent) // where cgroup v1 is beside it
	if _, err := os.Stat(filepath.Dir(top)); err != nil {
		top = filepath.Join("/sys/fs/cgroup", p.parent)
	}
	runtime := filepath.Join(p.Dir, "config.d/runtime.toml")
	if err := os.WriteFile(runtime, fmt.Appendf(nil, "[process]\nruntime = %q\n", testenv.NeedTool(t, "runc")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Run(t, "mkdir", top)
	t.Cleanup(func() {
		p.ok(t, "rm", "--force", "--time", "0", "--ignore", "one")
		if late := host.Await(host.Patience, func() string { return p.inCgroup(t, "/unit/runtime") }); late != "" {
			t.Error("conmon is left: " + late)
		}
		for _, group := range []string{"/unit/runtime", "/unit/.control", "/unit", ""} {
			leaks.RemoveCgroups(t, p.parent+group)
		}
		if err := os.Remove(runtime); err != nil {
			t.Error(err)
		}
	})
	command := func(args ...string) []string { return append(append([]string{"podman"}, p.flags...), args...) }
	id := strings.TrimSpace(p.must(t, "sh", append([]string{"-c", unit, "sh", top}, command("run", "--detach", "--name", "one",
		"--cgroups", "split", "--pids-limit", "0", "--network", "none", images.BusyboxName, "sleep", "1000")...)...))
	payload, program := "/unit/libpod-payload-"+id, "sleep 1000"
	if p.class == "vm" {
		payload, program = "/unit/cloister-"+id, "qemu-system-"
	}
	// An OCI runtime's own first process may be there for a moment before the container's.
	if late := host.Await(host.Patience, func() string {
		if got := p.inCgroup(t, payload); !strings.Contains(got, program) {
			return fmt.Sprintf("in the cgroup of the payload: %q, want %s", got, program)
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
	conmon := strings.TrimSpace(p.ok(t, "inspect", "-f", "{{.State.ConmonPid}}", "one"))
	split := func(args ...string) string {
		return p.must(t, "sh", append([]string{"-c", control, "sh", top, conmon}, command(args...)...)...)
	}
	if got := split("exec", "one", "echo", "said"); got != "said\n" {
		t.Errorf("exec = %q", got)
	}
	split("stop", "--time", "0", "one")
	if got := p.ok(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"); got != "exited 137\n" {
		t.Errorf("after stop: %q", got)
	}
	p.ok(t, "rm", "one")
	if _, err := os.Stat(filepath.Join(top, payload)); err == nil {
		t.Error("the cgroup of the payload is left")
	}
}

// inCgroup lists the programs in a cgroup below the place's.
func (p *podman) inCgroup(t *testing.T, group string) string {
	t.Helper()
	var list []string
	for pid, line := range p.Processes(t) {
		if r := p.run(t, "grep", "-x", "0::/"+p.parent+group, fmt.Sprintf("/proc/%d/cgroup", pid)); r.code == 0 {
			list = append(list, line)
		}
	}
	return strings.Join(list, "\n")
}
