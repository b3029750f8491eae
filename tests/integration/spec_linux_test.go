// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/host"
)

// spec writes a configuration for container id made of containerd's default one, changed, and gives
// the file's name.
func (b *bed) spec(t *testing.T, id string, change func(spec, process map[string]any)) string {
	t.Helper()
	var spec map[string]any
	if err := json.Unmarshal([]byte(b.Must(t, "oci", "spec")), &spec); err != nil {
		t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["env"] = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	spec["linux"].(map[string]any)["cgroupsPath"] = "/" + b.Namespace + "/" + id
	change(spec, process)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(b.Place.Dir, "spec-*.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(text); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// withSpec runs a container from a changed configuration, on a root file system mounted by the
// client.
func (b *bed) withSpec(t *testing.T, id string, change func(spec, process map[string]any), command ...string) host.Result {
	t.Helper()
	root := b.folder(t, "root-"+id, nil)
	b.Must(t, "images", "mount", "--rw", image, root)
	defer b.Must(t, "images", "unmount", root)
	config := b.spec(t, id, func(spec, process map[string]any) {
		spec["root"] = map[string]any{"path": root}
		process["args"] = command
		change(spec, process)
	})
	return b.Run(t, "run", "--runtime", b.Runtime, "--rm", "--config", config, id)
}

func TestPrivileges(t *testing.T) {
	b := newBed(t, host.Options{})
	// Effective capabilities, no_new_privs and the mode of seccomp. a80425fb is containerd's usual
	// set; bit 21 is CAP_SYS_ADMIN, bit 0 CAP_CHOWN.
	const status = `echo $(awk '/^(CapEff|NoNewPrivs|Seccomp):/ { print $2 }' /proc/self/status)`
	b.want(t, "usual", "00000000a80425fb 1 0", nil, "sh", "-c", status)
	b.want(t, "more", "00000000a82425fb 0 0", []string{"--cap-add", "CAP_SYS_ADMIN", "--allow-new-privs"}, "sh", "-c", status)
	b.want(t, "less", "00000000a80425fa 1 2", []string{"--cap-drop", "CAP_CHOWN", "--seccomp"}, "sh", "-c", status)
	b.want(t, "user", "0000000000000000 1 0", []string{"--user", "1000"}, "sh", "-c", status)
	b.want(t, "unshare", "refused", []string{"--seccomp", "--cap-add", "CAP_SYS_CHROOT"}, "sh", "-c",
		"unshare -m true 2>/dev/null || echo refused")
	b.want(t, "rlimit", "100 200 guest-name", []string{"--rlimit-nofile", "100:200", "--hostname", "guest-name"},
		"sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn) $(hostname)")
}

func TestSpecFields(t *testing.T) {
	b := newBed(t, host.Options{})
	tests := []struct {
		name    string
		change  func(spec, process map[string]any)
		command string
		want    string
	}{
		{"additional-gids", func(_, process map[string]any) {
			process["user"] = map[string]any{"uid": 5, "gid": 6, "additionalGids": []int{7, 8}, "umask": 0o27}
		}, "echo $(id -u) $(id -G); umask", "5 6 7 8\n0027"},
		{"rlimits", func(_, process map[string]any) {
			process["rlimits"] = []map[string]any{
				{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192},
				{"type": "RLIMIT_NPROC", "soft": 77, "hard": 99},
			}
		}, "grep 'Max processes' /proc/self/limits | tr -s ' ' | cut -d ' ' -f 3,4", "77 99"},
		{"sysctl", func(spec, _ map[string]any) {
			spec["linux"].(map[string]any)["sysctl"] = map[string]string{
				"net.ipv4.ip_unprivileged_port_start": "80",
				"kernel.shm_rmid_forced":              "1",
			}
		}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "80\n1"},
		{"domainname", func(spec, _ map[string]any) {
			spec["hostname"], spec["domainname"] = "h", "d.example"
		}, "hostname; cat /proc/sys/kernel/domainname", "h\nd.example"},
		{"domainname-as-sysctl", func(spec, _ map[string]any) {
			spec["linux"].(map[string]any)["sysctl"] = map[string]string{"kernel.domainname": "d.example"}
		}, "cat /proc/sys/kernel/domainname", "d.example"},
		{"oom-score", func(_, process map[string]any) { process["oomScoreAdj"] = 321 }, "cat /proc/self/oom_score_adj", "321"},
		{"masked", func(spec, _ map[string]any) {
			spec["linux"].(map[string]any)["maskedPaths"] = []string{"/etc/passwd", "/var"}
			spec["linux"].(map[string]any)["readonlyPaths"] = []string{"/home"}
		}, "cat /etc/passwd; ls -A /var; touch /home/f 2>/dev/null || echo read-only", "read-only"},
		{"device", func(spec, _ map[string]any) {
			spec["linux"].(map[string]any)["devices"] = []map[string]any{{
				"path": "/dev/mine", "type": "c",
				"major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4,
			}}
		}, "stat -c '%a %u:%g %t,%T' /dev/mine; head -c 4 /dev/mine | wc -c", "640 3:4 1,5\n4"},
		{"env", func(_, process map[string]any) { process["env"] = []string{"PATH=/bin", "E=x=y"} }, "echo $E", "x=y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := b.withSpec(t, tt.name, tt.change, "sh", "-c", tt.command)
			if got := strings.TrimSpace(r.Stdout); got != tt.want || r.Code != 0 {
				t.Errorf("got %q, exit %d, want %q\n%s", got, r.Code, tt.want, r.Stderr)
			}
		})
	}
}

// TestHostnameDefaultsToTheHosts: a container whose configuration names no host name has the
// host's.
func TestHostnameDefaultsToTheHosts(t *testing.T) {
	b := newBed(t, host.Options{})
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	r := b.withSpec(t, "c", func(spec, _ map[string]any) { delete(spec, "hostname") }, "hostname")
	if got := strings.TrimSpace(r.Stdout); got != name || r.Code != 0 {
		t.Errorf("hostname = %+v, want %q", r, name)
	}
}

// TestHooks has hooks write what they were given into a file on the host.
func TestHooks(t *testing.T) {
	b := newBed(t, host.Options{})
	log := filepath.Join(b.Place.Dir, "hooks.log")
	hook := func(name string) []map[string]any {
		script := fmt.Sprintf(`state=$(cat); echo %s $(echo "$state" | tr -d ' \n\t' | grep -o '"status":"[a-z]*"') $(test -n `+
			`"$(echo "$state" | grep pid)" && echo pid) $(readlink /proc/self/ns/mnt) >>%s`, name, log)
		return []map[string]any{{
			"path": "/bin/sh", "args": []string{"sh", "-c", script},
			"env": []string{"PATH=/usr/bin:/bin"}, "timeout": 10,
		}}
	}
	r := b.withSpec(t, "c", func(spec, _ map[string]any) {
		hooks := map[string]any{}
		for _, name := range []string{"prestart", "createRuntime", "poststart", "poststop"} {
			hooks[name] = hook(name)
		}
		spec["hooks"] = hooks
	}, "sh", "-c", "sleep 0.5; echo ran")
	if r.Stdout != "ran\n" {
		t.Fatalf("run = %+v", r)
	}
	var text []byte
	wrong := host.Await(host.Patience, func() string {
		text, _ = os.ReadFile(log)
		if strings.Count(string(text), "\n") != 4 {
			return "missing"
		}
		return ""
	})
	mounts, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", b.Place.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		names = append(names, fields[0])
		if isCloister() && fields[0] != "poststop" && !slices.Contains(fields, "pid") {
			t.Errorf("hook %q saw no pid", fields[0])
		}
		// The OCI runtime runs those of class process, in the shim's own mount namespace, which is
		// a slave of the engine's.
		if got := fields[len(fields)-1]; (got == mounts) == plain() {
			t.Errorf("hook %q ran in the mount namespace %s, the engine's is %s", fields[0], got, mounts)
		}
	}
	if got := strings.Join(names, " "); wrong != "" || got != "prestart createRuntime poststart poststop" {
		t.Errorf("hooks ran: %s\n%s", got, text)
	}
	if r := b.withSpec(t, "failing", func(spec, _ map[string]any) {
		spec["hooks"] = map[string]any{"createRuntime": []map[string]any{{"path": "/bin/false"}}}
	}, "echo", "no"); r.Code == 0 || r.Stdout != "" {
		t.Errorf("run with a failing hook = %+v, want an error", r)
	}
}

// cgroups shows a container its own cgroups: ctr does not unless told.
var cgroups = []string{"--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"}

func TestMemoryLimit(t *testing.T) {
	b := newBed(t, host.Options{})
	const limit = 64 << 20
	options := []string{"--memory-limit", fmt.Sprint(limit)}
	b.want(t, "limit", fmt.Sprint(limit), append(cgroups, options...), "sh", "-c",
		"cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
	events := b.Watch(t)
	b.Start(t, "oom", options, "tail", "/dev/zero")
	b.AwaitStatus(t, "oom", "STOPPED")
	b.wantDeleted(t, "oom", 137)
	wrong := host.Await(host.Patience, func() string {
		got := topics(events(), "oom")
		if !strings.Contains(strings.Join(got, " "), "oom") {
			return fmt.Sprint(got)
		}
		return ""
	})
	if wrong != "" {
		t.Errorf("events %s, want oom among them", wrong)
	}
	// What is killed in an exec leaves the container running.
	b.Start(t, "stays", options)
	if r := b.Exec(t, "stays", "e", "tail", "/dev/zero"); r.Code != 137 {
		t.Errorf("an exec that takes too much = %+v, want exit 137", r)
	}
	if got := b.Status(t, "stays"); got != "RUNNING" {
		t.Errorf("the container is %q, want RUNNING", got)
	}
}

func TestProcessorLimit(t *testing.T) {
	b := newBed(t, host.Options{})
	b.want(t, "cpus", "50000 100000", append(cgroups, "--cpus", "0.5"), "sh", "-c",
		"cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us) $(cat "+
			"/sys/fs/cgroup/cpu/cpu.cfs_period_us)")
}

// TestNetworkNamespace gives a namespace to the container, and looks where the task's pid lives.
func TestNetworkNamespace(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Place.Run(t, "sh", "-c", "mkdir -p /run/netns && touch /run/netns/given && unshare --net=/run/netns/given ip link set lo up")
	b.keep(t)
	pidFile := filepath.Join(b.Place.Dir, "pid")
	b.Start(t, "c", []string{"--with-ns", "network:/run/netns/given", "--pid-file", pidFile})
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(b.Place.Run(t, "stat", "-L", "-c", "%i", "/run/netns/given"))
	if got := strings.TrimSpace(b.Place.Run(t, "stat", "-L", "-c", "%i", "/proc/"+string(pid)+"/ns/net")); got != want {
		t.Errorf("the task's pid is in network namespace %s, want %s", got, want)
	}
	b.Start(t, "fresh", []string{"--pid-file", pidFile})
	if pid, err = os.ReadFile(pidFile); err != nil {
		t.Fatal(err)
	}
	own := strings.TrimSpace(b.Place.Run(t, "stat", "-L", "-c", "%i", "/proc/1/ns/net"))
	if got := strings.TrimSpace(b.Place.Run(t, "stat", "-L", "-c", "%i", "/proc/"+string(pid)+"/ns/net")); got == want || got == own {
		t.Errorf("a container without a network is in namespace %s, want one of its own", got)
	}
}

// TestRefusals sees what cloister does not do refused before a machine starts, with a word on what
// is meant.
func TestRefusals(t *testing.T) {
	if !isCloister() {
		t.Skip("a peer has other limits")
	}
	b := newBed(t, host.Options{})
	tests := []struct {
		name    string
		options []string
		words   string
	}{
		{"host-network", []string{"--net-host"}, "network"},
		{"unknown-annotation", []string{"--annotation", "io.cloister.nonsense=1"}, "io.cloister.nonsense"},
		{"apparmor", []string{"--apparmor-profile", "some"}, "apparmor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := b.run(t, tt.name, tt.options, "true")
			if r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), tt.words) {
				t.Errorf("run = %+v, want an error with %q", r, tt.words)
			}
		})
	}
}
