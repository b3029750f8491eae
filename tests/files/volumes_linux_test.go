// SPDX-License-Identifier: Apache-2.0

package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// runtimes are the two that volumes are tried with, by the name that containers get.
func runtimes() map[string]string {
	return map[string]string{"runc": bed.Runc, "cloister": bed.Cloister}
}

// TestVolumes gives one container every kind of volume that engines know.
func TestVolumes(t *testing.T) {
	g := newGround(t, host.Options{})
	for name, runtime := range runtimes() {
		t.Run(name, func(t *testing.T) {
			volume := g.folder(t, name+"/volume", "sibling")
			g.folder(t, name+"/volume/sub", "in-sub")
			other := g.folder(t, name+"/other", "of-other")
			parent := g.folder(t, name+"/parent", "of-parent")
			below := g.folder(t, name+"/parent/below")
			memory := g.folder(t, name+"/memory")
			g.Place.Run(t, "mount", "-t", "tmpfs", "-o", "size=64k", "below", below)
			g.Place.Run(t, "touch", below+"/mounted")
			g.Place.Run(t, "mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "memory", memory)
			g.start(t, name, runtime,
				bind(volume+"/sub", "/sub", "rbind:rw"),
				bind(volume, "/volume", "rbind:ro"), bind(other, "/volume/sub", "rbind:rw"),
				bind(other+"/of-other", "/volume/sibling", "bind:rw"),
				bind(parent, "/whole", "rbind:rw"), bind(parent, "/alone", "bind:rw"), bind(parent, "/closed", "rbind:rro"),
				bind(memory, "/memory", "rbind:rw"),
				"--mount=type=tmpfs,src=tmpfs,dst=/tmpfs,options=size=1m:mode=1750:uid=7:gid=8:nr_inodes=10:noexec",
			)
			for _, tt := range []struct{ what, script, want string }{
				{"the image's user", "id -u", "1000\n"},
				{"a folder below a volume, and nothing beside it", "ls /sub /sub/..|grep -x -e in-sub -e sibling", "in-sub\n"},
				{"written to", "echo new >/sub/new; cat /sub/new", "new\n"},
				{
					"a bind in a bind", "ls /volume/sub; echo x >/volume/sub/y && cat /volume/sub/y; cat /volume/sibling",
					"of-other\nx\nof-other",
				},
				{
					"writable in a read-only one", "echo w >/volume/sibling; cat /volume/sub/of-other; touch /volume/z 2>&1",
					"w\ntouch: /volume/z: Read-only file system\nexit 1\n",
				},
				{
					"with what is mounted below, and without",
					"ls /whole/below /alone/below; touch /whole/below/w && ls /whole/below",
					"/alone/below:\n\n/whole/below:\nmounted\nmounted\nw\n",
				},
				{
					"read-only with what is mounted below", "ls /closed/below; touch /closed/below/x 2>&1",
					"mounted\nw\ntouch: /closed/below/x: Read-only file system\nexit 1\n",
				},
				{
					"tmpfs",
					"stat -c '%a %u:%g' /tmpfs; df -k /tmpfs | awk 'END { print $2 }'; cp /bin/probe /tmpfs 2>&1; i=0; while " +
						"touch /tmpfs/$i 2>/dev/null; do i=$((i+1)); done; ls /tmpfs | wc -l; grep -o noexec /proc/mounts | head -1",
					"1750 7:8\n1024\ncp: write error: No space left on device\n9\nnoexec\n",
				},
				{
					"an emptyDir in memory",
					"dd if=/dev/zero of=/memory/f bs=64k count=64 2>&1 | grep -o 'No space.*'; df -k /memory | awk 'END { " +
						"print $2 }'; ls -s /memory/f | awk '{ print $1 }'", "No space left on device\n1024\n1024\n",
				},
			} {
				user := "0"
				if tt.what == "the image's user" {
					user = "1000:1000"
				}
				if got := g.shAs(t, name, user, tt.script); got != tt.want {
					t.Errorf("%s: %s (-want +got):\n%s", tt.what, tt.script, cmp.Diff(tt.want, got))
				}
			}
			if data, err := os.ReadFile(filepath.Join(volume, "sub", "new")); string(data) != "new\n" {
				t.Errorf("the file on the host = %q, %v", data, err)
			}
		})
	}
}

// TestPropagation mounts on the host below a volume that containers have already.
func TestPropagation(t *testing.T) {
	g := newGround(t, host.Options{})
	for name, runtime := range runtimes() {
		t.Run(name, func(t *testing.T) {
			dir := g.folder(t, name+"/shared", "before")
			g.Place.Run(t, "mount", "--bind", dir, dir)
			g.Place.Run(t, "mount", "--make-shared", dir)
			g.start(t, name, runtime, bind(dir, "/private", "rbind:rw:rprivate"),
				bind(dir, "/slave", "rbind:rw:rslave"), bind(dir, "/unsaid", "rbind:rw"))
			later := g.folder(t, name+"/shared/later")
			sees := func(what, script, want string) {
				t.Helper()
				got := ""
				if !bed.Await(host.Patience, func() bool { got = g.sh(t, name, script); return got == want }) {
					t.Errorf("%s (-want +got):\n%s", what, cmp.Diff(want, got))
				}
			}
			const look = "for d in private slave unsaid; do echo $d $(ls /$d/later); done"
			sees("the folder", look, "private\nslave\nunsaid\n")
			g.Place.Run(t, "mount", "-t", "tmpfs", "later", later)
			g.Place.Run(t, "touch", later+"/mounted")
			sees("mounted", look, "private\nslave mounted\nunsaid mounted\n")
			g.Place.Run(t, "umount", "--lazy", later)
			sees("unmounted", look, "private\nslave\nunsaid\n")
		})
	}
	r := g.Run(t, g.Args("shared", []string{bind(g.Dir, "/v", "rbind:rw:rshared")}, "true")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "mounts[") || !strings.Contains(r.Stderr, "rslave") {
		t.Errorf("a shared bind = %+v, want it refused with what to use", r)
	}
}

// TestRefusedSources binds what no guest can have: refused before anything is started, with field,
// value and remedy.
func TestRefusedSources(t *testing.T) {
	g := newGround(t, host.Options{})
	dir := g.folder(t, "sources")
	socket := filepath.Join(dir, "socket")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.Place.Run(t, "mkfifo", dir+"/fifo")
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	before := g.Look(t)
	for name, tt := range map[string]struct{ source, remedy string }{
		"missing":  {dir + "/missing", "create it first"},
		"dangling": {dir + "/dangling", "create it first"},
		"socket":   {socket, "list it under workloads.sockets"},
		"fifo":     {dir + "/fifo", "use a network address"},
		"device":   {"/dev/zero", "linux.devices"},
		"proc":     {"/proc", "the container has the guest's own at /proc"},
		"sys":      {"/sys", "the container has the guest's own at /sys"},
		"cgroups":  {"/sys/fs/cgroup", "the container has the guest's own at /sys/fs/cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			r := g.Run(t, g.Args(name, []string{"--rm", bind(tt.source, "/v", "rbind:rw")}, "true")...)
			for _, word := range []string{": plan: ", "].source", strconv.Quote(tt.source), tt.remedy} {
				if r.Code == 0 || !strings.Contains(r.Stderr, word) {
					t.Errorf("run = %+v, want an error with %q", r, word)
				}
			}
		})
	}
	g.NothingLeft(t, before)
}

// listen answers each connection to a socket with what it was sent, once that has ended.
func listen(t *testing.T, socket string, mode os.FileMode) net.Listener {
	t.Helper()
	return serve(t, socket, mode, func(conn net.Conn) {
		if data, err := io.ReadAll(conn); err == nil {
			_, _ = conn.Write(append([]byte("got "), data...)) // the client says what is missing
		}
	})
}

// speak answers each connection to a socket without end, and counts those that there are.
func speak(t *testing.T, socket string) *atomic.Int32 {
	t.Helper()
	clients := &atomic.Int32{}
	serve(t, socket, 0o666, func(conn net.Conn) {
		clients.Add(1)
		defer clients.Add(-1)
		for piece := make([]byte, 32<<10); ; {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
	})
	return clients
}

// serve listens at a socket until the test ends.
func serve(t *testing.T, socket string, mode os.FileMode, answer func(net.Conn)) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, mode); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestHostSockets has sockets of the host as volumes, where the config lists their folder.
func TestHostSockets(t *testing.T) {
	g := newGround(t, host.Options{})
	dir := g.folder(t, "sockets")
	g.Place.WriteCloisterConfig(t, "[workloads]\nsockets = ["+strconv.Quote(dir)+"]\n[timeouts]\nboot = \"5m\"\n")
	before := g.Look(t)
	served := listen(t, dir+"/open", 0o666)
	listen(t, dir+"/roots", 0o600)
	clients := speak(t, dir+"/endless")
	g.start(t, "client", bed.Cloister, bind(dir+"/open", "/run/open", "rbind:rw"),
		bind(dir+"/roots", "/run/roots", "rbind:ro"), bind(dir+"/endless", "/run/endless", "rbind:rw"))
	for _, tt := range []struct{ name, user, want, script string }{
		{"an answer", "1000", "got word", "printf word | probe dial /run/open"},
		{"much", "1000", "1000004", "head -c 1000000 /dev/zero | probe dial /run/open | wc -c"},
		{"many at once", "1000", "40", "for i in $(seq 40); do (echo $i | probe dial /run/open) & done | grep -c got"},
		{
			"many that leave in the middle", "1000", "34",
			"for i in $(seq 34); do (probe dial /run/endless </dev/null 2>/dev/null | head -c 100000 | wc -c) & done | grep -c 100000",
		},
		{"one that reads no more", "1000", "", "(probe dial /run/endless </dev/null | sleep 1000) >/dev/null 2>&1 &"},
		{
			"others beside it", "1000", "100000\ngot word",
			"probe dial /run/endless </dev/null 2>/dev/null | head -c 100000 | wc -c; printf word | probe dial /run/open",
		},
		{"the host's mode", "1000", "EACCES", "printf word | probe dial /run/roots 2>&1 | grep -o EACCES"},
		{"the host's owner", "0", "got word", "printf word | probe dial /run/roots"},
	} {
		if got := strings.TrimSpace(g.shAs(t, "client", tt.user, tt.script)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if wrong := host.Await(host.Patience, func() string {
		if n := clients.Load(); n != 1 {
			return fmt.Sprintf("a server that speaks without end has %d clients, of which one has not left", n)
		}
		return ""
	}); wrong != "" {
		t.Error(wrong)
	}
	_ = served.Close()
	if got := g.sh(t, "client", "printf word | probe dial /run/open; echo ended"); got != "ended\n" {
		t.Errorf("nobody listens: %q", got)
	}
	listen(t, dir+"/open", 0o666)
	if got := g.sh(t, "client", "printf again | probe dial /run/open"); got != "got again" {
		t.Errorf("somebody listens again: %q", got)
	}
	// Who may write to the folder, as a guest that has it for a volume, does not choose the server.
	unlisted := g.folder(t, "unlisted") + "/s"
	listen(t, unlisted, 0o666)
	if err := errors.Join(os.Remove(dir+"/open"), os.Symlink(unlisted, dir+"/open")); err != nil {
		t.Fatal(err)
	}
	if got := g.sh(t, "client", "printf word | probe dial /run/open; echo ended"); got != "ended\n" {
		t.Errorf("a link in the socket's place: %q", got)
	}
	g.Remove(t, "client")
	if n := clients.Load(); n != 0 {
		t.Errorf("a server of the host has %d clients that have been removed", n)
	}
	g.NothingLeft(t, before)
}

// TestBlockDevices hands a loop device to a container, to write to and to read from.
func TestBlockDevices(t *testing.T) {
	testenv.NeedTool(t, "losetup")
	g := newGround(t, host.Options{Cloister: "[workloads]\nblock_devices = true\n[timeouts]\nboot = \"5m\"\n"})
	image := filepath.Join(g.Dir, "raw")
	g.Place.Run(t, "truncate", "-s", "8M", image)
	node := strings.TrimSpace(g.Place.Run(t, "losetup", "--find", "--show", image))
	defer g.Place.Run(t, "losetup", "--detach", node)
	var major, minor int64
	if _, err := fmt.Sscan(g.Place.Run(t, "stat", "-c", "%Hr %Lr", node), &major, &minor); err != nil {
		t.Fatal(err)
	}
	for name, runtime := range runtimes() {
		for access, want := range map[string]string{"rwm": "8388608\n" + name, "rm": "8388608\ndenied\n"} {
			t.Run(name+"-"+access, func(t *testing.T) {
				script := "blockdev --getsize64 /dev/volume; { echo -n " + name +
					" | dd of=/dev/volume conv=notrunc,fsync; } 2>/dev/null || { echo denied; exit; }; head -c " +
					strconv.Itoa(len(name)) + " /dev/volume"
				config := g.spec(t, name+access, func(spec map[string]any) {
					linux := spec["linux"].(map[string]any)
					linux["devices"] = []map[string]any{{
						"path": "/dev/volume", "type": "b", "major": major,
						"minor": minor, "fileMode": 0o660,
					}}
					linux["resources"] = map[string]any{"devices": []map[string]any{
						{"allow": false, "access": "rwm"},
						{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
						{"allow": true, "type": "b", "major": major, "minor": minor, "access": access},
					}}
					spec["process"].(map[string]any)["args"] = []string{"sh", "-c", script}
				})
				r := g.Run(t, "run", "--rm", "--runtime", runtime, "--config", config, name+access)
				if r.Stdout != want {
					t.Errorf("run = %+v, want %q", r, want)
				}
				if access == "rwm" {
					if data, err := os.ReadFile(image); err != nil || !strings.HasPrefix(string(data), name) {
						t.Errorf("the device begins with %q, %v, want %q", data[:min(8, len(data))], err, name)
					}
				}
			})
		}
	}
}

// spec writes containerd's default configuration, changed, with the image mounted as its root.
func (g ground) spec(t *testing.T, id string, change func(spec map[string]any)) string {
	t.Helper()
	root := g.folder(t, "root-"+id)
	g.Must(t, "images", "mount", "--rw", image, root)
	t.Cleanup(func() { g.Within(t, time.Minute, "images", "unmount", root) })
	var spec map[string]any
	if err := json.Unmarshal([]byte(g.Must(t, "oci", "spec")), &spec); err != nil {
		t.Fatal(err)
	}
	spec["root"] = map[string]any{"path": root}
	spec["linux"].(map[string]any)["cgroupsPath"] = "/" + g.Namespace + "/" + id
	spec["process"].(map[string]any)["env"] = []string{"PATH=/bin:/sbin"}
	change(spec)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.Dir, id+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
