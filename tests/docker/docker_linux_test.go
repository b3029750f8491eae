// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/leaks"
)

// TestDocker has one daemon for all that Docker's users do, and looks at what is left at the end.
func TestDocker(t *testing.T) {
	b := newEngine(t)
	before := b.look(t)
	for _, part := range []struct {
		name string
		test func(t *testing.T, b *engine)
	}{
		{"run", run},
		{"life", life},
		{"options", options},
		{"network", network},
		{"sysctls", sysctls},
		{"compose", compose},
		{"volumes", volumes},
		{"ends", ends},
		{"refusals", refusals},
		{"restart of dockerd", restart},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, b) })
	}
	b.MustDocker(t, "network", "prune", "--force")
	b.MustDocker(t, "volume", "prune", "--all", "--force")
	b.nothingLeft(t, before)
}

// look lists what of sandboxes is on the host now.
func (b *engine) look(t *testing.T) leaks.Snapshot {
	t.Helper()
	return leaks.Look(t, leaks.Host{Place: b.Place, CgroupParent: b.CgroupParent, Folders: []string{
		"/run/cloister", "/run/containerd/s", "/run/containerd/io.containerd.runtime.v2.task/moby", "/run/docker/netns",
		filepath.Join(b.Place.Dir, "cloister"), filepath.Join(b.Place.Dir, "docker", "containers"),
		filepath.Join(b.Place.Dir, "docker", "volumes"),
	}})
}

// nothingLeft waits until the host is as it was before, and says what is not.
func (b *engine) nothingLeft(t *testing.T, before leaks.Snapshot) {
	t.Helper()
	var left []string
	if !await(func() bool {
		// dockerd keeps the namespace that it is in from the first wish for it, and a killed one
		// its socket.
		left = slices.DeleteFunc(leaks.Compare(before, b.look(t)), func(name string) bool {
			return strings.Contains(name, "/run/docker/netns/default") || strings.Contains(name, "/run/docker/libnetwork/")
		})
		return len(left) == 0
	}) {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// run is what ends by itself.
func run(t *testing.T, b *engine) {
	uname, err := exec.CommandContext(t.Context(), "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in     string
		args         []string
		want         string // of the standard output
		wantErr      string // in the standard error
		code         int
		wantNotEqual string
	}{
		{
			name: "a kernel of its own, without a network", args: []string{byName, "--network=none", image, "uname", "-r"},
			wantNotEqual: string(uname),
		},
		{name: "none has loopback alone", args: []string{"--network=none", image, "ls", "/sys/class/net"}, want: "lo\n"},
		{
			name: "input, both outputs, exit code", in: "words",
			args: []string{"-i", image, "sh", "-c", "cat; echo err >&2; exit 7"}, want: "words", wantErr: "err\n", code: 7,
		},
		{name: "no such program", args: []string{image, "nothing"}, wantErr: "nothing", code: 127},
		{name: "no program", args: []string{image, "/etc"}, wantErr: "permission denied", code: 126},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := b.Docker(t.Context(), append([]string{"run", "--rm"}, tt.args...)...)
			cmd.Stdin = strings.NewReader(tt.in)
			r := b.Finish(t.Context(), t, cmd)
			if r.Code != tt.code || tt.wantNotEqual == "" && r.Stdout != tt.want || tt.wantNotEqual != "" &&
				(r.Stdout == tt.wantNotEqual || r.Stdout == "") || !strings.Contains(r.Stderr, tt.wantErr) {
				t.Errorf("docker run %s: exit %d, stdout %q, stderr %q, want %d, %q, %q",
					strings.Join(tt.args, " "), r.Code, r.Stdout, r.Stderr, tt.code, tt.want, tt.wantErr)
			}
		})
	}
	t.Run("terminal", func(t *testing.T) {
		if got := b.terminal(t, "run", "--rm", "-it", image, "tty"); !strings.Contains(got, "/dev/pts/") &&
			!strings.Contains(got, "/dev/console") {
			t.Errorf("tty = %q", got)
		}
	})
	t.Run("attach", func(t *testing.T) {
		b.start(t, "attended", []string{"--interactive"}, "sh", "-c", "read word; echo got $word; exit 6")
		input, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer input.Close()
		defer writer.Close() // later: at the end of its input the command line looks at outputs no more
		if _, err := writer.WriteString("word\n"); err != nil {
			t.Fatal(err)
		}
		cmd := b.Docker(t.Context(), "attach", "attended")
		cmd.Stdin = input
		if r := b.Finish(t.Context(), t, cmd); r.Code != 6 || r.Stdout != "got word\n" {
			t.Errorf("docker attach: exit %d, stdout %q, stderr %q, want 6 and \"got word\"", r.Code, r.Stdout, r.Stderr)
		}
	})
}

// options are asked for at once, since each container is a machine: what they do is looked at one
// by one.
func options(t *testing.T, b *engine) {
	b.start(t, "tight", []string{
		"--user=1000:100", "--read-only", "--tmpfs=/scratch:size=1m,mode=1777", "--cap-drop=ALL",
		"--cap-add=NET_BIND_SERVICE", "--security-opt=no-new-privileges",
		"--ulimit=nofile=100:200", "--shm-size=3m", "--sysctl=net.ipv4.ip_forward=1",
		"--sysctl=kernel.msgmax=4096", "--init", "--pids-limit=50",
		"--memory=128m", "--cpus=0.5", "--hostname=box", "--domainname=example.org",
		"--env=WORD=told", "--workdir=/tmp", "--add-host=far:10.9.8.7", "--dns=10.1.1.1", "--dns-search=svc.test",
		"--cgroupns=private", "--group-add=10", "--label=a=b",
	})
	for _, tt := range []struct{ name, want, script string }{
		{"--user", "1000 100", "echo $(id -u) $(id -g)"},
		{"--group-add", "1", "id -G | grep -cw 10"},
		{"--read-only", "Read-only", "touch /x 2>&1 | grep -o Read-only"},
		{"--tmpfs", "1024 ok", "echo $(df -k /scratch | awk 'NR==2{print $2}') $(touch /scratch/x && echo ok)"},
		{"--cap-add and --cap-drop", "0000000000000400", "grep CapBnd /proc/self/status | cut -f2"},
		{"no-new-privileges", "1", "grep NoNewPrivs /proc/self/status | cut -f2"},
		{"seccomp by default", "2", "grep Seccomp: /proc/self/status | cut -f2"},
		{"--ulimit", "100 200", "echo $(ulimit -Sn) $(ulimit -Hn)"},
		{"--shm-size", "3072", "df -k /dev/shm | awk 'NR==2{print $2}'"},
		{"--sysctl", "1 4096", "echo $(cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax)"},
		{"--init", "docker-init", "cat /proc/1/comm"},
		{"--pids-limit", "50", "cat /sys/fs/cgroup/pids.max"},
		{"--memory", "134217728", "cat /sys/fs/cgroup/memory.max"},
		{"--cpus", "50000 100000", "cat /sys/fs/cgroup/cpu.max"},
		{"--hostname", "box", "hostname"},
		{"--domainname", "example.org", "cat /proc/sys/kernel/domainname"},
		{"HOME of a user without an entry", "/", "echo $HOME"},
		{"--env and --workdir", "told /tmp", "echo $WORD $(pwd)"},
		{"--add-host", "1", "grep -c '10.9.8.7.*far' /etc/hosts"},
		{
			"--dns", "10.1.1.1 svc.test",
			"echo $(awk '/^nameserver/{print $2}' /etc/resolv.conf) $(awk '/^search/{print $2}' /etc/resolv.conf)",
		},
		{"--cgroupns", "0::/", "cat /proc/self/cgroup"},
	} {
		t.Run(tt.name, func(t *testing.T) { b.say(t, "tight", tt.name, tt.want, tt.script) })
	}
	b.start(t, "loose", []string{
		"--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined", "--cap-add=ALL",
		"--device=/dev/fuse", "--device=/dev/net/tun:/dev/net/tun:rw",
		"--cgroupns=host", "--ipc=shareable", "--cpuset-cpus=0", "--cpu-shares=512", "--oom-score-adj=100", "--stop-signal=USR1",
	})
	for _, tt := range []struct{ name, want, script string }{
		{"seccomp=unconfined", "0", "grep Seccomp: /proc/self/status | cut -f2"},
		{"systempaths=unconfined", "writable", "[ -w /proc/sys/kernel/msgmax ] && echo writable"},
		{"--cap-add=ALL", "mounted", "mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs none /mnt && echo mounted"},
		{"--device /dev/fuse", "opens", "exec 3<>/dev/fuse && echo opens"},
		{"--device /dev/net/tun", "1", "cat /dev/net/tun 2>&1 | grep -c 'bad state'"},
		{
			"a tun of its own", "10.8.0.1",
			"tunctl -t tun8 >/dev/null && ip addr add 10.8.0.1/24 dev tun8 && ip link set tun8 up && ping -c 1 -W 5 10.8.0.1 " +
				"| sed -n 's/.*from \\([^:]*\\):.*/\\1/p'",
		},
		{"--oom-score-adj", "100", "cat /proc/1/oom_score_adj"},
	} {
		t.Run(tt.name, func(t *testing.T) { b.say(t, "loose", tt.name, tt.want, tt.script) })
	}
}

// refusals asks for what a guest cannot have: the error names it and what to do.
func refusals(t *testing.T, b *engine) {
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"--network host", "--network host", []string{"--network=host"}},
		{"--pid host", "--pid host", []string{"--pid=host"}},
		{"--ipc host", "--ipc host", []string{"--ipc=host"}},
		{"--uts host", "--uts host", []string{"--uts=host"}},
		{"--privileged", "--cap-add=ALL", []string{"--privileged"}},
		{"a device of the host", "/dev/loop-control", []string{"--device=/dev/loop-control"}},
		{"a memory limit beyond the host's", "memory", []string{"--memory=1p"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := b.RunDocker(t, append(append([]string{"run", "--rm"}, tt.args...), image, "true")...)
			if r.Code != 125 && r.Code != 128 || !strings.Contains(r.Stderr, tt.want) {
				t.Errorf("docker run %s: exit %d, %s, want an error with %q in it", strings.Join(tt.args, " "), r.Code, r.Stderr, tt.want)
			}
		})
	}
}

// restart takes the daemon away from under its containers.
func restart(t *testing.T, b *engine) {
	b.MustDocker(t, "network", "create", "stays")
	b.start(t, "other", []string{"--network=stays"})
	b.start(t, "stays", []string{"--network=stays", "--publish=8090:8080", "--health-cmd=true", "--health-interval=1s"}, "sh", "-c",
		"mkfifo /tmp/in; mkdir /www; echo page >/www/f; httpd -p 8080 -h /www; while :; do read -r line </tmp/in && echo said $line; done")
	for _, signal := range []string{"TERM", "KILL"} {
		t.Run(signal, func(t *testing.T) {
			b.Stop(t, signal)
			b.Start(t)
			b.awaitInspect(t, "stays", "{{.State.Status}}", "running")
			b.say(t, "stays", "exec", "page", "cat /www/f")
			b.awaitIn(t, "stays", "0", "nslookup -type=a other >/dev/null; echo $?")
			b.fetch(t, "127.0.0.1", "8090")
			b.in(t, "stays", "echo "+signal+" >/tmp/in")
			if !await(func() bool { return strings.Contains(b.MustDocker(t, "logs", "stays"), "said "+signal) }) {
				t.Errorf("logs after the restart = %q", b.MustDocker(t, "logs", "stays"))
			}
			if got := b.MustDocker(t, "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}",
				"stays"); !strings.HasPrefix(got, "stays ") || strings.HasPrefix(got, "stays 0B") {
				t.Errorf("stats after the restart = %q", got)
			}
		})
	}
	b.MustDocker(t, "update", "--restart=always", "stays")
	t.Run("killed machine", func(t *testing.T) {
		b.Place.Run(t, "kill", "-KILL", b.inspect(t, "stays", "{{.State.Pid}}"))
		b.awaitInspect(t, "stays", "{{.RestartCount}} {{.State.Status}}", "1 running")
		b.fetch(t, "127.0.0.1", "8090")
	})
	t.Run("reboot", func(t *testing.T) {
		b.reboot(t)
		b.awaitInspect(t, "stays", "{{.RestartCount}} {{.State.Status}}", "0 running")
		b.fetch(t, "127.0.0.1", "8090")
		b.awaitInspect(t, "other", "{{.State.Running}}", "false")
	})
	b.MustDocker(t, "stop", "--time", "1", "stays")
	b.awaitInspect(t, "stays", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
}

// reboot leaves what a host's reboot leaves, files on disk, and starts the daemons.
func (b *engine) reboot(t *testing.T) {
	t.Helper()
	b.Stop(t, "KILL")
	b.Containerd.Stop(t, "KILL")
	for pid, line := range b.Place.Processes(t) {
		if slices.Contains([]string{"containerd-shim-cloister-v2", "qemu-system-x86_64", "virtiofsd"},
			filepath.Base(strings.Fields(line)[0])) {
			b.Place.Kill(t, pid)
		}
	}
	b.Place.Run(t, "sh", "-c", `awk '$5 ~ "^/run/" { print $5 }' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l
for l in $(ls /sys/class/net); do [ $l = lo ] || ip link delete $l; done # the other end of a veth is gone by then
iptables -F; iptables -t nat -F; rm -rf /run/cloister /run/containerd /run/docker /run/netns
rm -rf "$0"/mcs/*-*-*-*-* # reservations are of one boot`, filepath.Join(b.Place.Dir, "cloister"))
	if !await(func() bool { // once the kernel has buried who was killed
		const script = "for d in /sys/fs/cgroup/$0 /sys/fs/cgroup/*/$0; do [ ! -d $d ] || find $d -mindepth 1 -depth -type d " +
			"! -exec rmdir {} \\; -print; done 2>/dev/null"
		return b.Place.Run(t, "sh", "-c", script, b.CgroupParent) == ""
	}) {
		t.Error("cgroups of the time before are still there")
	}
	b.Containerd.Start(t)
	b.Start(t)
}
