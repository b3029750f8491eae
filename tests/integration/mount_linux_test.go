// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloister/tests/host"
)

// folder makes a folder with the files in the place's own folder.
func (b *bed) folder(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(b.Place.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestMountErrorsNameTheUsersPaths: an error about a mount names its source on the host and its
// destination, and no path that only the guest has.
func TestMountErrorsNameTheUsersPaths(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.folder(t, "data", map[string]string{"file": "text"})
	for name, mount := range map[string][2]string{
		"file-onto-folder": {filepath.Join(dir, "file"), "/etc"},
		"folder-onto-file": {dir, "/etc/passwd"},
	} {
		r := b.run(t, name, []string{"--mount", "type=bind,src=" + mount[0] + ",dst=" + mount[1] + ",options=rbind:ro"}, "true")
		if r.Code == 0 || !strings.Contains(r.Stderr, mount[0]) || !strings.Contains(r.Stderr, mount[1]) ||
			strings.Contains(r.Stderr, "/run/cloister") {
			t.Errorf("%s: %+v, want an error that names %s and %s", name, r, mount[0], mount[1])
		}
	}
}

func TestBindMounts(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.folder(t, "data", map[string]string{"in": "from the host\n", "alone": "alone\n"})
	secret := b.folder(t, "secret", map[string]string{"key": "secret\n"})
	if err := os.Symlink(filepath.Join(secret, "key"), filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret/key", filepath.Join(dir, "up")); err != nil {
		t.Fatal(err)
	}
	writable := []string{"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:rw"}
	readOnly := []string{"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:ro"}

	b.want(t, "read", "from the host", writable, "cat", "/data/in")
	b.want(t, "write", "", writable, "sh", "-c",
		"echo w >/data/new && chown 1234:5678 /data/new && chmod 2640 /data/new && ln -s in /data/link && ln /data/in "+
			"/data/hard && mkfifo /data/fifo")
	info, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 1234 || stat.Gid != 5678 || stat.Mode&0o7777 != 0o2640 {
		t.Errorf("the new file has owner %d:%d and mode %o, want 1234:5678 and 2640", stat.Uid, stat.Gid, stat.Mode&0o7777)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "in" {
		t.Errorf("the new link leads to %q, %v", target, err)
	}
	for _, name := range []string{"out", "up"} {
		if r := b.run(t, "escape", writable, "cat", "/data/"+name); r.Code == 0 || strings.Contains(r.Stdout, "secret") {
			t.Errorf("a link leads out of the mount: %+v", r)
		}
	}
	r := b.run(t, "refused", readOnly, "sh", "-c",
		"cat /data/in; echo x >/data/no; echo x >/data/in; rm /data/in; chmod 777 /data/in; mkdir /data/d; true")
	if r.Stdout != "from the host\n" || strings.Count(r.Stderr, "Read-only file system") != 5 {
		t.Errorf("writes to a read-only mount: %+v, want five refusals", r)
	}
}

func TestFileMounts(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.folder(t, "files", map[string]string{"a": "a\n", "b": "b\n", "neighbour": "n\n"})
	options := []string{
		"--mount", "type=bind,src=" + dir + "/a,dst=/etc/a,options=bind:ro",
		"--mount", "type=bind,src=" + dir + "/b,dst=/etc/b,options=bind:rw",
	}
	r := b.run(t, "c", options, "sh", "-c", "cat /etc/a /etc/b; echo more >>/etc/b; echo x >>/etc/a; ls /etc | grep neighbour; true")
	if r.Stdout != "a\nb\n" || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("files = %+v, want a and b, and a refusal", r)
	}
	text, err := os.ReadFile(filepath.Join(dir, "b"))
	if err != nil || string(text) != "b\nmore\n" {
		t.Errorf("b on the host = %q, %v, want b and more", text, err)
	}
	// A file mounted over one that the image has.
	b.want(t, "over", "a", []string{"--mount", "type=bind,src=" + dir + "/a,dst=/etc/passwd,options=bind:ro"}, "cat", "/etc/passwd")
}

func TestTmpfsMounts(t *testing.T) {
	b := newBed(t, host.Options{})
	b.want(t, "tmpfs", "1024 full", []string{"--mount", "type=tmpfs,src=tmpfs,dst=/t,options=nosuid:size=1m"}, "sh", "-c",
		"echo $(df -k /t | awk 'END { print $2 }') $(dd if=/dev/zero of=/t/f bs=1M count=2 2>/dev/null || echo full)")
}

func TestSystemMounts(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	b.say(t, "kinds", "/proc proc\n/dev tmpfs\n/dev/pts devpts\n/dev/shm tmpfs\n/dev/mqueue mqueue\n/sys sysfs",
		`awk '$2 ~ "^/(proc|sys|dev|dev/(pts|shm|mqueue))$" { print $2, $3 }' /proc/mounts`)
	b.say(t, "shm", "65536", "df -k /dev/shm | awk 'END { print $2 }'")
	b.say(t, "sys", "no", "echo x 2>/dev/null >/sys/kernel/profiling || echo no")
	b.say(t, "masked", "0", "cat /proc/keys /proc/timer_list /proc/kcore 2>/dev/null | wc -c")
	b.say(t, "read-only", "no", "echo 1 2>/dev/null >/proc/sys/vm/overcommit_memory || echo no")
	b.say(t, "devices", "ok",
		"for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; head -c 8 /dev/urandom "+
			">/dev/null && echo x >/dev/null && echo ok")
	b.say(t, "fds", "/proc/self/fd", "readlink /dev/fd")
	b.say(t, "kept", "refused", "umount /proc 2>/dev/null || echo refused")
}

func TestRootFileSystem(t *testing.T) {
	b := newBed(t, host.Options{})
	r := b.run(t, "read-only", []string{"--read-only"}, "touch", "/new")
	if r.Code == 0 || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("touch on a read-only root = %+v", r)
	}
	b.Start(t, "c", nil)
	b.say(t, "setuid", "4755 0", "stat -c '%a %u' /bin/busybox-suid")
	b.say(t, "hard-links", "same", "test /bin/ls -ef /bin/cat && echo same")
	// The highest id that there is: the next one means "as it was".
	b.say(t, "chown", "4294967294:1", "touch /f && chown 4294967294:1 /f && stat -c %u:%g /f")
	b.say(t, "sparse", "100000000 small",
		"dd if=/dev/zero of=/s bs=1 count=0 seek=100000000 2>/dev/null; echo $(stat -c %s /s) $(test $(stat -c %b /s) -lt "+
			"100 && echo small)")
	b.say(t, "sticky", "1777", "stat -c %a /tmp")
	b.say(t, "rename", "x", "mkdir /a && echo x >/a/f && mv /a /b && mv /b/f /g && cat /g && rmdir /b")
	b.say(t, "open-unlinked", "kept", "echo kept >/u; exec 3</u; rm /u; cat <&3")
	b.say(t, "many", "2000", "mkdir /m; i=0; while [ $i -lt 2000 ]; do : >/m/$i; i=$((i+1)); done; ls /m | wc -l")
	b.say(t, "device", "c 1,3", "mknod /n c 1 3 && stat -c '%F %t,%T' /n | sed 's/character special file/c/'")
	b.say(t, "append", "1\n2", "echo 1 >/p; echo 2 >>/p; cat /p")
	b.say(t, "truncate", "3", "echo 123456 >/t; truncate -s 3 /t; stat -c %s /t")
	b.say(t, "links", "2 /t", "ln /t /t2; ln -s /t /t3; echo $(stat -c %h /t) $(readlink /t3)")
}

// TestRootIsKept stops a container and starts its task again on the same root.
func TestRootIsKept(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil, "sh", "-c", "echo x >>/count; exec sleep 1000")
	if wrong := host.Await(host.Patience, func() string { return b.Exec(t, "c", "first", "cat", "/count").Stderr }); wrong != "" {
		t.Fatal(wrong)
	}
	b.Must(t, "task", "kill", "--signal", "KILL", "c")
	b.AwaitStatus(t, "c", "STOPPED")
	b.Run(t, "task", "delete", "c")
	b.Must(t, "task", "start", "--detach", "c")
	b.AwaitStatus(t, "c", "RUNNING")
	if wrong := host.Await(host.Patience, func() string {
		if r := b.Exec(t, "c", "e", "wc", "-l", "/count"); r.Stdout != "2 /count\n" {
			return r.Stdout + r.Stderr + " "
		}
		return ""
	}); wrong != "" {
		t.Errorf("wc -l = %q, want 2", wrong)
	}
}

// TestAbsoluteRoot has the root file system mounted by the client, as Docker does.
func TestAbsoluteRoot(t *testing.T) {
	b := newBed(t, host.Options{})
	root := b.folder(t, "root, with a comma", nil)
	b.Must(t, "images", "mount", "--rw", image, root)
	config := b.spec(t, "c", func(spec, process map[string]any) {
		spec["root"] = map[string]any{"path": root}
		process["args"] = []string{"sh", "-c", "echo ran >/mark; echo done"}
	})
	r := b.Run(t, "run", "--runtime", b.Runtime, "--rm", "--config", config, "c")
	if r.Stdout != "done\n" || r.Code != 0 {
		t.Errorf("run = %+v", r)
	}
	if text, err := os.ReadFile(b.Place.Path(filepath.Join(root, "mark"))); string(text) != "ran\n" {
		t.Errorf("the file of the container = %q, %v", text, err)
	}
	b.Must(t, "images", "unmount", root)
}
