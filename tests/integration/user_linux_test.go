// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cloister/tests/host"
)

// TestHomeDefaultsToTheUsers: a process whose configuration names no HOME has that of its user in
// the container's /etc/passwd, or "/".
func TestHomeDefaultsToTheUsers(t *testing.T) {
	b := newBed(t, host.Options{})
	users := b.folder(t, "users", map[string]string{"passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"})
	const echo = "echo [$HOME]"
	b.want(t, "nobody", "[/]", []string{"--user", "1000:2000"}, "sh", "-c", echo)
	b.want(t, "given", "[/x]", []string{"--user", "1000:2000", "--env", "HOME=/x"}, "sh", "-c", echo)
	b.want(t, "empty", "[/]", []string{"--user", "1000:2000", "--env", "HOME="}, "sh", "-c", echo)
	b.want(t, "root", "[/root]", nil, "sh", "-c", echo)
	b.Start(t, "c", []string{
		"--user", "1000:1000", "--mount",
		"type=bind,src=" + filepath.Join(users, "passwd") + ",dst=/etc/passwd,options=bind:ro",
	},
		"sh", "-c", "echo $HOME >/tmp/home; exec sleep 1000")
	b.say(t, "bound", "/home/user [/home/user]", "until grep . /tmp/home; do sleep 0.1; done | tr '\n' ' '; "+echo)
	r := b.Run(t, "task", "exec", "--exec-id", "e", "--user", "4321", "c", "sh", "-c", echo)
	if r.Stdout != "[/]\n" || r.Code != 0 {
		t.Errorf("exec of a user without an entry = %+v, want [/]", r)
	}
}

// TestUserNamespace runs containers with a user namespace, on a root file system whose layers are
// id-mapped and on one that the engine has chowned, with a volume that is id-mapped.
func TestUserNamespace(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.folder(t, "data", map[string]string{"of-5": "", "of-1500": "", "beyond": ""})
	// One id of each range of the map below, and one of neither, which nobody owns in the
	// container.
	for name, uid := range map[string]int{"of-5": 5, "of-1500": 1500, "beyond": 70000} {
		if err := os.Chown(filepath.Join(dir, name), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	users := []string{
		"--uidmap", "0:65536:1000", "--uidmap", "1000:200000:1000", "--gidmap", "0:65536:2000",
		"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:rw:idmap",
	}
	if plain() {
		if r := b.run(t, "refused", users, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "idmap") {
			t.Errorf("run with an id-mapped volume = %+v, want an error that names idmap", r)
		}
		ids := []string{"--uidmap", "0:65536:1000", "--gidmap", "0:65536:1000"}
		b.want(t, "plain", "0 65536 1000", ids, "sh", "-c", "echo $(cat /proc/self/uid_map)")
		return
	}
	const script = `echo $(cat /proc/self/uid_map) $(cat /proc/self/gid_map)
stat -c %u:%g / /bin/busybox /data/of-5 /data/of-1500 /data/beyond
mkdir /mine; touch /data/new; chown 1001:7 /data/new; chmod 4750 /data/new; ip link set lo mtu 1400; cat /sys/class/net/lo/mtu`
	const want = "0 65536 1000 1000 200000 1000 0 65536 2000\n0:0\n0:0\n5:5\n1500:1500\n65534:65534\n1400\n"
	for name, options := range map[string][]string{
		"mapped": slices.Concat(users,
			[]string{"--remap-labels", "--cap-add", "CAP_NET_ADMIN"}),
		"chowned": slices.Concat(users, []string{"--cap-add", "CAP_NET_ADMIN"}),
	} {
		if r := b.run(t, name, options, "sh", "-c", script); r.Stdout != want || r.Code != 0 {
			t.Errorf("%s: %+v, want %q", name, r, want)
		}
		info, err := os.Stat(filepath.Join(dir, "new"))
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 1001 || stat.Gid != 7 || stat.Mode&0o7777 != 0o4750 {
			t.Errorf("%s: the new file has owner %d:%d and mode %o, want 1001:7 and 4750", name, stat.Uid, stat.Gid, stat.Mode&0o7777)
		}
	}
	if !isCloister() {
		return
	}
	terminals := slices.Concat(users, []string{"--mount", "type=bind,src=/dev/pts,dst=/k,options=rbind:ro:idmap"})
	if r := b.run(t, "refused", terminals, "true"); r.Code == 0 ||
		!strings.Contains(r.Stderr, ".uidMappings") || !strings.Contains(r.Stderr, "/dev/pts") {
		t.Errorf("a volume that cannot be mapped: %+v, want an error that names it", r)
	}
}
