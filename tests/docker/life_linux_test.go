// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/host"
)

// life is one container from its start to its end, and what can be done to it meanwhile.
func life(t *testing.T, b *engine) {
	b.start(t, "web", []string{byName, "--publish=8080:80", "--memory=128m"}, "sh", "-c",
		`mkdir /www; echo page >/www/f; httpd -p 80 -h /www; trap 'echo ends; exit 3' TERM; n=0; while :; do n=$((n+1)); echo line `+
			`$n; sleep 0.2; done`)
	t.Run("publish", func(t *testing.T) {
		for _, address := range []string{"127.0.0.1", "172.17.0.1"} {
			b.fetch(t, address, "8080")
		}
	})
	t.Run("logs --follow", func(t *testing.T) { follow(t, b, "web") })
	t.Run("exec", func(t *testing.T) {
		b.say(t, "web", "exec", "page", "cat /www/f")
		if r := b.RunDocker(t, "exec", "--user=1000", "--env=WORD=told", "--workdir=/www", "web", "sh", "-c",
			"echo $(id -u) $WORD $(pwd); exit 9"); r.Code != 9 || r.Stdout != "1000 told /www\n" {
			t.Errorf("exec: exit %d, %q, %q", r.Code, r.Stdout, r.Stderr)
		}
		for program, code := range map[string]int{"nothere": 127, "/etc/passwd": 126, "/etc": 126} {
			if r := b.RunDocker(t, "exec", "web", program); r.Code != code || !strings.Contains(r.Stderr+r.Stdout, program) {
				t.Errorf("exec of %s: exit %d, %q, want %d and its name", program, r.Code, r.Stderr, code)
			}
		}
		if got := b.terminal(t, "exec", "-it", "web", "tty"); !strings.Contains(got, "/dev/pts/") {
			t.Errorf("exec -it tty = %q", got)
		}
	})
	t.Run("cp", func(t *testing.T) {
		copies(t, b, "web")
		folders(t, b, "web", "running")
		b.say(t, "web", "what was copied", "word word", "cat /www/running/sub/f /www/running/sub/l | xargs")
	})
	t.Run("stats", func(t *testing.T) {
		countIO(t, b.Place.Dir)
		b.in(t, "web", "dd if=/dev/zero of=/block bs=1M count=4 conv=fsync; rm /block")
		if got := b.MustDocker(t, "stats", "--no-stream", "--format", "{{.BlockIO}}", "web"); strings.HasPrefix(got, "0B / 0B") {
			t.Errorf("stats = %q, want what was written as block I/O", got)
		}
		got := strings.Fields(b.MustDocker(t, "stats", "--no-stream", "--format",
			"{{.Name}} {{.PIDs}} {{.MemUsage}} {{.NetIO}} {{.CPUPerc}}", "web"))
		if len(got) < 9 || got[8] == "0.00%" || got[1] == "0" || got[2] == "0B" || got[4] != "128MiB" || got[5] == "0B" {
			t.Errorf("stats = %q, want processes, memory used of 128MiB, network and processor", got)
		}
	})
	t.Run("top", func(t *testing.T) {
		if got := b.MustDocker(t, "top", "web", "-o", "pid,comm"); !strings.Contains(got, "qemu-system") {
			t.Errorf("top = %q, want the machine, which is what runs on the host", got)
		}
	})
	t.Run("inspect", func(t *testing.T) {
		if got := b.inspect(t, "web",
			"{{.State.Status}} {{.HostConfig.Runtime}} {{.NetworkSettings.Networks.bridge.IPAddress}}"); !strings.HasPrefix(got,
			"running io.containerd.cloister.v2 172.17.0.") {
			t.Errorf("inspect = %q", got)
		}
	})
	t.Run("pause", func(t *testing.T) {
		b.MustDocker(t, "pause", "web")
		b.awaitInspect(t, "web", "{{.State.Status}}", "paused")
		b.MustDocker(t, "unpause", "web")
		b.say(t, "web", "exec after the pause", "page", "cat /www/f")
	})
	t.Run("update", func(t *testing.T) {
		// A quota without a period; the second one takes the first away.
		for _, limit := range []struct{ quota, want string }{{"15000", "15000 100000"}, {"-1", "max 100000"}} {
			b.MustDocker(t, "update", "--cpu-quota="+limit.quota, "web")
			b.say(t, "web", "quota "+limit.quota, limit.want, "cat /sys/fs/cgroup/cpu.max")
		}
		b.MustDocker(t, "update", "--memory=64m", "--memory-swap=64m", "--cpus=0.25", "--pids-limit=77", "web")
		b.say(t, "web", "limits", "67108864 25000 100000 77",
			"echo $(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max)")
		if r := b.RunDocker(t, "update", "--memory=8g", "--memory-swap=8g", "web"); r.Code == 0 ||
			!strings.Contains(r.Stderr, "fixed at start") {
			t.Errorf("update beyond the machine: exit %d, %s", r.Code, r.Stderr)
		}
	})
	t.Run("rename", func(t *testing.T) {
		b.MustDocker(t, "rename", "web", "web2")
		b.MustDocker(t, "rename", "web2", "web")
	})
	t.Run("stop and start", func(t *testing.T) {
		b.MustDocker(t, "stop", "--time", host.Grace, "web")
		b.awaitInspect(t, "web", "{{.State.Status}} {{.State.ExitCode}}", "exited 3")
		if got := b.MustDocker(t, "logs", "--tail", "1", "web"); got != "ends\n" {
			t.Errorf("the last line is %q", got)
		}
		folders(t, b, "web", "stopped")
		b.MustDocker(t, "start", "web")
		b.fetch(t, "127.0.0.1", "8080")
		b.say(t, "web", "what was copied while it was stopped", "word word", "cat /www/stopped/sub/f /www/stopped/sub/l | xargs")
	})
	t.Run("kill", func(t *testing.T) {
		b.MustDocker(t, "kill", "web")
		b.awaitInspect(t, "web", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", "exited 137 false")
	})
	t.Run("rm --force", func(t *testing.T) {
		b.MustDocker(t, "start", "web")
		b.MustDocker(t, "rm", "--force", "web")
		if r := b.RunDocker(t, "inspect", "web"); r.Code == 0 {
			t.Error("the container is still there")
		}
	})
}

// follow reads a container's log while it is being written.
func follow(t *testing.T, b *engine, name string) {
	t.Helper()
	cmd := b.Docker(t.Context(), "logs", "--follow", name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Cancel()
		_ = cmd.Wait() // says that it was killed
	}()
	lines := bufio.NewScanner(out)
	var got []string
	for len(got) < 5 && lines.Scan() {
		got = append(got, lines.Text())
	}
	if want := []string{"line 1", "line 2", "line 3", "line 4", "line 5"}; !slices.Equal(got, want) {
		t.Errorf("logs = %q, want %q", got, want)
	}
}

// copies moves files in both directions, large enough to need more than one piece.
func copies(t *testing.T, b *engine, name string) {
	t.Helper()
	there, back := filepath.Join(b.Place.Dir, "there"), filepath.Join(b.Place.Dir, "back")
	data := strings.Repeat("0123456789abcdef", 100_000)
	if err := os.WriteFile(there, []byte(data), 0o640); err != nil {
		t.Fatal(err)
	}
	b.MustDocker(t, "cp", there, name+":/www/large")
	b.say(t, name, "what was copied", "1600000 640", "stat -c '%s %a' /www/large")
	b.MustDocker(t, "cp", name+":/www/large", back)
	got, err := os.ReadFile(b.Place.Path(back))
	if err != nil || string(got) != data {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(data), err)
	}
}

// folders moves a folder in both directions.
func folders(t *testing.T, b *engine, container, name string) {
	t.Helper()
	there, back := filepath.Join(b.Place.Dir, name), filepath.Join(b.Place.Dir, name+"-back")
	if err := os.MkdirAll(filepath.Join(there, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(there, "sub", "f"), []byte("word\n"), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(there, "sub", "l")); err != nil {
		t.Fatal(err)
	}
	b.MustDocker(t, "cp", there, container+":/www/"+name)
	b.MustDocker(t, "cp", container+":/www/"+name, back)
	if got := b.sh(t,
		"cd "+back+"/sub; stat -c '%n %a %F' . *; cat l"); got != ". 750 directory\nf 604 regular file\nl 777 symbolic link\nword" {
		t.Errorf("%s came back as %q", name, got)
	}
}

// countIO has the kernel count the I/O of the disk that a folder is on. With cgroup v1, newer
// kernels begin to when the first limit for the disk is set: this one limits nothing.
func countIO(t *testing.T, folder string) {
	t.Helper()
	const blkio = "/sys/fs/cgroup/blkio"
	var st unix.Stat_t
	if err := unix.Stat(folder, &st); err != nil {
		t.Fatal(err)
	}
	disk := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	if _, err := os.Stat(filepath.Join(disk, "partition")); err == nil {
		disk += "/.."
	}
	number, err := os.ReadFile(filepath.Join(disk, "dev"))
	if _, v1 := os.Stat(filepath.Join(blkio, "tasks")); v1 != nil || err != nil {
		return // cgroup v2 counts always; what is on no disk has nothing to count
	}
	group := filepath.Join(blkio, filepath.Base(folder)+"-count")
	if err := os.Mkdir(group, 0o700); err != nil {
		t.Fatal(err)
	}
	limit := strings.TrimSpace(string(number)) + " 1099511627776"
	err = os.WriteFile(filepath.Join(group, "blkio.throttle.write_bps_device"), []byte(limit), 0)
	if err := errors.Join(err, os.Remove(group)); err != nil {
		t.Fatal(err)
	}
}
