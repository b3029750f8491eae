// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/clients"
	"cloister/tests/testenv"
)

// writable gives a container what systemd and an inner engine need: cgroups and a /run of their own
// to write to, and capabilities.
func writable(capabilities ...string) []string {
	options := []string{
		"--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=rw:nosuid:nodev:noexec",
		"--mount", "type=tmpfs,src=tmpfs,dst=/run,options=mode=755:nosuid:nodev",
	}
	for _, c := range capabilities {
		options = append(options, "--cap-add", "CAP_"+c)
	}
	return options
}

// systemdApp has systemd as process 1, which starts a unit, restarts one that dies, keeps their
// output and cleans up after an orphan.
func systemdApp() app {
	return app{
		name:    "systemd",
		options: func(string) []string { return append(writable("SYS_ADMIN"), "--env", "container=other") },
		command: []string{"/sbin/init", "systemd.unit=basic.target"},
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
until systemctl is-system-running 2>/dev/null | grep -q 'running\|degraded'; do sleep 0.5; done
cat /proc/1/comm
printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo from a unit; echo kept >/data/unit"\n' >/etc/systemd/system/once.service
printf 'echo x >>/data/starts; [ -e /data/two ] || { touch /data/two; exit 3; }; exec sleep 1000\n' >/data/again
printf '[Service]\nExecStart=/bin/sh /data/again\nRestart=on-failure\nRestartSec=0\n' >/etc/systemd/system/again.service
systemctl daemon-reload; systemctl start once again
until [ "$(wc -l </data/starts)" = 2 ] && systemctl is-active --quiet again; do sleep 0.2; done
cat /data/unit; systemctl show --property=NRestarts again
until journalctl --unit=once --output=cat | grep 'from a unit'; do sleep 0.2; done
systemctl kill --signal=KILL again; systemctl stop again; systemctl is-active again || true`)
		},
		want: "systemd\nkept\nNRestarts=1\nfrom a unit\ninactive",
	}
}

// dockerPrograms are what an inner daemon needs.
func dockerPrograms() map[clients.Set]string {
	return map[clients.Set]string{
		clients.Containerd: "containerd", clients.Runc: "runc", clients.Dockerd: "dockerd", clients.Docker: "docker",
	}
}

// dockerApp has Docker's daemon with an inner container. The daemon's folder is a tmpfs: a volume
// cannot be the upper layer of an overlay in a guest.
func dockerApp() app {
	return app{
		name: "docker",
		options: func(string) []string {
			options := writable("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")
			options = append(options, "--mount", "type=tmpfs,src=tmpfs,dst=/var/lib/docker,options=mode=711")
			for set := range dockerPrograms() {
				options = append(options, "--mount", fmt.Sprintf("type=bind,src=%s,dst=/opt/%s,options=rbind:ro", clients.Dir(set), set))
			}
			return options
		},
		prepare: func(t *testing.T, _ *ground, data string) {
			for set, program := range dockerPrograms() {
				clients.Need(t, set, program)
			}
			busybox := testenv.NeedBusybox(t)
			archive := []string{"-C", filepath.Dir(busybox), "-cf", filepath.Join(data, "image.tar"), filepath.Base(busybox)}
			if out, err := exec.CommandContext(t.Context(), "tar", archive...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := os.WriteFile(filepath.Join(data, "name"), []byte("/"+filepath.Base(busybox)), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		use: func(_ *testing.T, c *container) string {
			out := c.sh(`
export PATH=/opt/containerd:/opt/runc:/opt/dockerd:/opt/docker:$PATH HOME=/root; B=$(cat /data/name)
cd /sys/fs/cgroup
if [ -e cgroup.controllers ]; then # a cgroup with processes cannot have limited ones below it
	mkdir init; for p in $(cat cgroup.procs); do echo $p >init/cgroup.procs 2>/dev/null || true; done
	sed 's/ / +/g; s/^/+/' cgroup.controllers >cgroup.subtree_control
fi
(dockerd --storage-driver=overlay2 --bridge=none --iptables=false --ip6tables=false --ip-forward=false \
	>/tmp/log 2>&1 &) </dev/null >/dev/null 2>&1
until docker info >/dev/null 2>&1; do pgrep dockerd >/dev/null || { cat /tmp/log; exit 1; }; sleep 0.5; done
docker import /data/image.tar inner >/dev/null
docker run --rm --network=none inner $B sh -c 'echo in $$; exit 0' || { tail -n 20 /tmp/log; exit 1; }
docker run --detach --name=kept --network=none --memory=64m inner $B sleep 1000 >/dev/null
docker exec kept $B sh -c "echo written >/f; $B cat /f"
docker info --format '{{.Driver}}'
docker rm --force kept >/dev/null; docker ps --all --quiet | wc -l`)
			return strings.TrimSpace(out)
		},
		want: "in 1\nwritten\noverlay2\n0",
	}
}

func engines() []app { return []app{systemdApp(), dockerApp()} }
