// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// volumes of the engine, and folders of the host.
func volumes(t *testing.T, b *engine) {
	source := filepath.Join(b.Place.Dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "f"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(b.Place.Dir, "below")
	b.sh(t, fmt.Sprintf("mkdir -p %[1]s/sub; mount -t tmpfs tmpfs %[1]s/sub", below))
	defer b.sh(t, "umount "+below+"/sub")
	b.MustDocker(t, "volume", "create", "kept")
	t.Cleanup(func() { b.RunDocker(t, "volume", "rm", "kept") })
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"named", "", []string{"--volume=kept:/data", image, "sh", "-c", "mkdir /data/d; echo word >/data/f; echo deep >/data/d/f"}},
		{"named, again", "word\n", []string{"--volume=kept:/data:ro", image, "sh", "-c", "cat /data/f; touch /data/g 2>/dev/null"}},
		{"a part of a named one", "deep\n", []string{
			"--mount=type=volume,source=kept,target=/data,volume-subpath=d",
			image, "cat", "/data/f",
		}},
		{"anonymous, filled from the image", "test_content\n", []string{volumeImage, "cat", "/test_dir/test_file"}},
		{"folder, read-only", "host\n", []string{
			"--mount=type=bind,source=" + source + ",target=/s,readonly",
			image, "sh", "-c", "cat /s/f; touch /s/g 2>/dev/null",
		}},
		{
			"folder with a mount below, read-only", "Read-only file system\n",
			[]string{"--volume=" + below + ":/b:ro", image, "sh", "-c", "touch /b/sub/x 2>&1 | sed 's/.*: //'"},
		},
		{"folder with a mount below", "", []string{"--volume=" + below + ":/b", image, "touch", "/b/sub/y"}},
		{
			"folder without the mount below", "0\n",
			[]string{
				"--mount=type=bind,source=" + below + ",target=/b,readonly,bind-recursive=disabled",
				image, "sh", "-c", "ls /b/sub | wc -l",
			},
		},
		{"folder, writable", "", []string{"--volume=" + source + ":/s:z", image, "sh", "-c", "echo guest >/s/f"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := b.RunDocker(t, append([]string{"run", "--rm"}, tt.args...)...); r.Stdout != tt.want ||
				r.Code != 0 && !strings.Contains(tt.name, ",") {
				t.Errorf("docker run %s = %q, exit %d, %s, want %q", strings.Join(tt.args, " "), r.Stdout, r.Code, r.Stderr, tt.want)
			}
		})
	}
	if got, err := os.ReadFile(filepath.Join(source, "f")); string(got) != "guest\n" {
		t.Errorf("the host's file = %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(source, "g")); err == nil {
		t.Error("a read-only folder was written")
	}
}

// ends are how containers end, and what Docker makes of it.
func ends(t *testing.T, b *engine) {
	since := b.sh(t, "date +%s.%N")
	t.Run("restart", func(t *testing.T) {
		b.start(t, "again", []string{"--restart=on-failure:2"}, "sh", "-c", "echo run; exit 5")
		b.awaitInspect(t, "again", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", "exited 5 2")
		if got := b.MustDocker(t, "logs", "again"); got != "run\nrun\nrun\n" {
			t.Errorf("logs = %q", got)
		}
	})
	t.Run("out of memory", func(t *testing.T) {
		b.start(t, "greedy", []string{"--memory=48m", "--memory-swap=48m"}, "sh", "-c", "exec tail /dev/zero")
		b.awaitInspect(t, "greedy", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", "exited 137 true")
	})
	t.Run("health", func(t *testing.T) {
		b.start(t, "well", []string{"--health-cmd=test -e /well", "--health-interval=1s", "--health-retries=2"})
		b.awaitInspect(t, "well", "{{.State.Health.Status}}", "unhealthy")
		b.in(t, "well", "touch /well")
		b.awaitInspect(t, "well", "{{.State.Health.Status}}", "healthy")
	})
	t.Run("output of a probe that is killed", func(t *testing.T) { slowProbe(t, b) })
	t.Run("events", func(t *testing.T) {
		got := b.MustDocker(t, "events", "--since", since, "--until", b.sh(t, "date +%s.%N"), "--filter", "type=container",
			"--format", "{{.Actor.Attributes.name}} {{.Action}} {{.Actor.Attributes.exitCode}}")
		for _, want := range []string{"again create", "again start", "again die 5", "greedy oom", "greedy die 137"} {
			if !strings.Contains(got, want) {
				t.Errorf("no event %q in\n%s", want, got)
			}
		}
	})
	t.Run("wait", func(t *testing.T) {
		b.start(t, "short", nil, "sh", "-c", "sleep 2; exit 4")
		if got := b.MustDocker(t, "wait", "short"); got != "4\n" {
			t.Errorf("wait = %q", got)
		}
	})
}

// slowProbe has a probe print and then hang: what it printed before the daemon killed it is in the
// health log, under both runtimes. The limit counts from the start of the probe. An emulated shell
// on a busy host may be killed before it has printed: then the next probe counts.
func slowProbe(t *testing.T, b *engine) {
	for _, runtime := range []string{"runc", "cloister"} {
		b.start(t, "slow", []string{
			"--runtime=" + runtime, "--health-cmd=echo printed; sleep 1000",
			"--health-interval=100ms", "--health-timeout=5s", "--health-retries=1",
		})
		got := ""
		if !await(func() bool {
			got = b.inspect(t, "slow", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}")
			return strings.Contains(got, "-1 Health check exceeded timeout (5s): printed")
		}) {
			t.Errorf("%s: the health log is %q, want what the probe printed before it was killed", runtime, got)
		}
		b.MustDocker(t, "rm", "--force", "slow")
	}
}
