// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// TestUserNamespaces runs a pod with a user namespace (hostUsers: false) in both of containerd's
// modes.
func TestUserNamespaces(t *testing.T) {
	for _, sandboxer := range []string{"podsandbox", "shim"} {
		t.Run(sandboxer, func(t *testing.T) { users(t, sandboxer) })
	}
}

// shift is the map of the test's pods: this many ids from 0 are the host's from here on, as a
// kubelet's blocks of 65,536.
const shift = 65536

func podUsers() *runtimeapi.NamespaceOption {
	ids := []*runtimeapi.IDMapping{{ContainerId: 0, HostId: shift, Length: shift}}
	return &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}}
}

func users(t *testing.T, sandboxer string) {
	t.Helper()
	b := newBed(t, sandboxer)
	step(t, "features", func(t *testing.T) {
		status, err := b.cri.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range status.GetRuntimeHandlers() {
			if h.GetName() == "cloister" && h.GetFeatures().GetUserNamespaces() {
				return
			}
		}
		t.Errorf("no user namespaces in %v", status.GetRuntimeHandlers())
	})
	volume := filepath.Join(b.Place.Dir, "volume")
	owned(t, volume, 0)
	owned(t, filepath.Join(volume, "user"), 1000)
	owned(t, filepath.Join(volume, "beyond"), 3*shift)
	var p *pod
	var first, second string
	if !step(t, "run", func(*testing.T) { // the pod lasts as long as the whole test
		p = b.run(t, &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "users"}, Hostname: "users-0",
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				Sysctls:         map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shm_rmid_forced": "1"},
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: podUsers()},
			},
		})
		first = p.start(t, "first", withUsers(volume, podUsers()), "sh", "-c", "mkdir /www; echo page >/www/f; exec httpd -f -p 80 -h /www")
		own := podUsers()
		own.Pid = runtimeapi.NamespaceMode_CONTAINER
		second = p.start(t, "second", withUsers(volume, own), "sleep", "1000")
	}) {
		return
	}
	ids := fmt.Sprintf("0 %d %d\n", shift, shift)
	for _, test := range []struct{ name, in, want, script string }{
		{"users", first, ids, "echo $(cat /proc/self/uid_map)"},
		{"groups", second, ids, "echo $(cat /proc/self/gid_map)"},
		{"root file system", first, "0:0 0:0\n", "touch /new; echo $(stat -c %u:%g /bin/busybox /new)"},
		{"owners of a volume", second, "0 1000 65534\n", "echo $(stat -c %u /volume /volume/user /volume/beyond)"},
		{
			"writes to a volume", first, "0:0 5:6\n",
			"cd /volume; mkdir made; touch given; chown 5:6 given; chmod 4755 given; echo $(stat -c %u:%g made given)",
		},
		{"shared memory", first, "0\n", "touch /dev/shm/f; stat -c %u /dev/shm/f"},
		{"files of the engine", first, "0\n", "echo '# more' >>/etc/hosts; stat -c %u /etc/hosts"},
		{"host name", second, "users-0\n", "hostname"},
		{"sysctls", second, "1024 1\n", "echo $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced)"},
		{"localhost, a port of root's", second, "page\n", "printf 'GET /f HTTP/1.0\\r\\n\\r\\n' | nc -w 10 127.0.0.1 80 | tail -n 1"},
		{"raw sockets", second, "0\n", "ping -c 1 -W 5 10.85.0.1 >/dev/null; echo $?"},
		{"the pod's processes", first, "shared\n", "[ $(pidof httpd) != 1 ] && echo shared"},
		{"own processes", second, "sleep\n", "cat /proc/1/comm"},
		{
			"sysfs and mqueue", first, "sysfs mqueue\n",
			"echo $(awk '$2 == \"/sys\" || $2 == \"/dev/mqueue\" {print $3}' /proc/mounts | sort -r)",
		},
		{"streams by name", first, "said\n", "echo said >/dev/stdout"},
	} {
		step(t, test.name, func(t *testing.T) {
			if got, code := b.exec(t, test.in, test.script); got != test.want || code != 0 {
				t.Errorf("%s = %q, exit %d, want %q", test.script, got, code, test.want)
			}
		})
	}
	pass(t, b, first, second, "/volume") // what is renamed: docs/kubernetes.md has the limit
	step(t, "one user namespace", func(t *testing.T) {
		one, _ := b.exec(t, first, "readlink /proc/self/ns/user")
		if other, _ := b.exec(t, second, "readlink /proc/self/ns/user"); one != other || !strings.HasPrefix(one, "user:[") {
			t.Errorf("the containers are in %q and %q", one, other)
		}
	})
	step(t, "on the host", func(t *testing.T) {
		for name, want := range map[string]uint32{"made": 0, "given": 5, "user": 1000, "beyond": 3 * shift} {
			var st syscall.Stat_t
			if err := syscall.Stat(filepath.Join(volume, name), &st); err != nil || st.Uid != want {
				t.Errorf("%s is owned by %d, %v, want %d", name, st.Uid, err, want)
			}
		}
	})
	capable(t, filepath.Join(volume, "busybox"))
	step(t, "streams of a user, capabilities of a file", func(t *testing.T) {
		third := p.start(t, "third", func(c *runtimeapi.ContainerConfig) {
			withUsers(volume, podUsers())(c)
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		}, "sh", "-c", "id -u; echo said >/dev/stderr; /volume/busybox grep CapEff /proc/self/status")
		s := b.exited(t, third)
		// 400 is CAP_NET_BIND_SERVICE, the one that the file has.
		for _, want := range []string{"stdout F 1000\n", "stderr F said\n", "CapEff:\t0000000000000400\n"} {
			if wrong := host.Await(host.Patience, func() string { // containerd writes its log by itself
				log, err := os.ReadFile(filepath.Join(p.config.GetLogDirectory(), "third.log"))
				if strings.Contains(string(log), want) {
					return ""
				}
				return fmt.Sprintf("log %q, %v", log, err)
			}); wrong != "" || s.GetExitCode() != 0 {
				t.Errorf("exit code %d, %s, want %q", s.GetExitCode(), wrong, want)
			}
		}
	})
	step(t, "a volume that cannot be mapped", func(t *testing.T) {
		fourth := p.create(t, "fourth", withUsers("/dev/pts", podUsers()), "true")
		_, err := p.cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: fourth})
		if err == nil || !strings.Contains(err.Error(), "uidMappings") || !strings.Contains(err.Error(), "/dev/pts") {
			t.Errorf("StartContainer: %v, want an error that names the field and the folder", err)
		}
	})
	step(t, "stop and remove", func(t *testing.T) {
		p.remove(t)
		nothingLeft(t, b)
	})
}

// withUsers gives a container the pod's users and a volume whose owners are mapped.
func withUsers(volume string, namespaces *runtimeapi.NamespaceOption) func(*runtimeapi.ContainerConfig) {
	ids := namespaces.GetUsernsOptions().GetUids()
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: namespaces}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: volume, UidMappings: ids, GidMappings: ids}}
	}
}

// owned makes a folder of somebody's.
func owned(t *testing.T, name string, uid int) {
	t.Helper()
	if err := os.Mkdir(name, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, uid, uid); err != nil {
		t.Fatal(err)
	}
}

// capable makes a busybox that may bind any port, whoever runs it: struct vfs_cap_data of revision
// 2 (linux/capability.h).
func capable(t *testing.T, name string) {
	t.Helper()
	program, err := os.ReadFile(testenv.NeedBusybox(t))
	if err == nil {
		err = os.WriteFile(name, program, 0o755)
	}
	if err == nil {
		err = syscall.Setxattr(name, "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}
