// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/cmd/internal/avc"
	"cloister/labels/relabel"
	"cloister/sandbox/statedir"
	"cloister/sys"
)

// denied writes a denial as the kernel does; source and target are types with levels.
func denied(t *testing.T, source, target, class, permissions, rest string) avc.Denial {
	t.Helper()
	d, ok := avc.Parse("audit(1795330000.123:9): avc:  denied  { " + permissions + " } for  pid=7 " + rest +
		" scontext=system_u:system_r:" + source + " tcontext=system_u:object_r:" + target + " tclass=" + class + " permissive=0")
	if !ok {
		t.Fatalf("no denial: %s %s %s", source, target, rest)
	}
	return d
}

func TestExplain(t *testing.T) {
	const (
		qemu   = "cloister_qemu_t:s0:c1,c2"
		server = "cloister_virtiofsd_t:s0:c1,c2"
	)
	s := scene{
		levels: []held{{Level: level(t, "s0:c3,c4"), Holders: []string{"default/two"}}},
		files:  []relabel.Use{{Sandbox: "default/one", Path: "/srv/disk.img", Label: "system_u:object_r:cloister_image_t:s0:c1,c2"}},
		image:  "/usr/share/cloister/guest/small",
	}
	tests := []struct {
		name                                      string
		source, target, class, permissions, extra string
		want                                      judgement
		says, remedy                              string
	}{
		{"another's disk", qemu, "cloister_image_t:s0:c3,c4", "file", "read", `name="x"`, judgedAttack, "default/two", ""},
		{"a level of nobody", qemu, "cloister_image_t:s0:c5,c6", "file", "read", `name="x"`, judgedAttack, "held by no sandbox", ""},
		{"one category shared", qemu, "cloister_image_t:s0:c2,c3", "file", "read", `name="x"`, judgedAttack, "s0:c2,c3", ""},
		{"trace", qemu, "cloister_qemu_t:s0:c1,c2", "process", "ptrace", "", judgedAttack, "ptrace", ""},
		{"load a policy", server, "security_t:s0", "security", "load_policy", "", judgedAttack, "load_policy", ""},
		{"admin", qemu, qemu, "capability", "sys_admin", "", judgedAttack, "sys_admin", ""},
		{"priorities", qemu, qemu, "capability", "sys_nice", "", judgedHarmless, "", ""},
		{"host features", qemu, "sysfs_t:s0", "dir", "search", `name="node"`, judgedHarmless, "", ""},
		{"passwords", qemu, "shadow_t:s0", "file", "read", `path="/etc/shadow"`, judgedAttack, "shadow_t", ""},
		{"passwords through the file server", server, "shadow_t:s0", "file", "read", `path="/etc/shadow"`, judgedAttack, "shadow_t", ""},
		{
			"docker's socket", qemu, "container_runtime_t:s0", "unix_stream_socket", "connectto",
			`path="/run/docker.sock"`, judgedAttack, "", "",
		},
		{"rootfs by QEMU", qemu, "cloister_rootfs_t:s0:c1,c2", "file", "open", `name="x"`, judgedAttack, "file server", ""},
		{"a raw disk", qemu, "fixed_disk_device_t:s0", "blk_file", "open read", `path="/dev/sda"`, judgedAttack, "device node", ""},
		{"something odd", qemu, "var_log_t:s0", "file", "append", `path="/var/log/messages"`, judgedAttack, "no reason", ""},
		{
			"a container outside", "cloister_container_t:s0:c9,c10", "var_log_t:s0", "file", "append", `name="x"`,
			judgedAttack, "no reason", "",
		},
		{
			"a disk handed over", qemu, "fixed_disk_device_t:s0", "blk_file", "read write", `path="/dev/dm-3"`,
			judgedMistake, "udev", "chcon -t cloister_image_t -l s0:c1,c2 /dev/dm-3",
		},
		{
			"label changed", qemu, "default_t:s0", "file", "read write", `path="/srv/disk.img"`, judgedMistake,
			"default/one", "chcon -R system_u:object_r:cloister_image_t:s0:c1,c2 /srv/disk.img",
		},
		{
			"guest image", qemu, "usr_t:s0", "file", "read open", `path="/usr/share/cloister/guest/small/kernel"`,
			judgedMistake, "", "restorecon -RFv /usr/share/cloister/guest/small",
		},
		{
			"volume", server, "user_home_t:s0", "dir", "read", `path="/home/a/it's"`, judgedMistake, ":Z",
			`chcon -R -t cloister_rootfs_t -l s0:c1,c2 '/home/a/it'\''s'`,
		},
		{
			"volume, last part", server, "var_t:s0", "dir", "read", `name="data" ino=5`, judgedMistake, "inum 5",
			"chcon -R -t cloister_rootfs_t -l s0:c1,c2 FOLDER",
		},
		{"NFS, svirt", "svirt_t:s0:c1,c2", "nfs_t:s0", "file", "read", `name="x"`, judgedMistake, "", "setsebool -P virt_use_nfs on"},
		{"NFS, own types", server, "nfs_t:s0", "file", "read", `name="x"`, judgedMistake, "no switch", "copy it"},
		{
			"translation in svirt", "svirt_t:s0:c1,c2", "svirt_t:s0:c1,c2", "process", "execmem", "",
			judgedMistake, "", "setsebool -P virt_use_execmem on",
		},
		{"translation in KVM's domain", qemu, qemu, "process", "execmem", "", judgedMistake, "KVM", "cloister check"},
		{"translation by the file server", server, server, "process", "execmem", "", judgedAttack, "", ""},
		{"a library", qemu, "lib_t:s0", "file", "map execute", `path="/usr/lib/x.so"`, judgedMistake, "", "cloister policy install"},
		{"own log", qemu, "cloister_run_t:s0:c1,c2", "file", "map", `name="x"`, judgedMistake, "", "cloister policy install"},
		{
			"shim in no domain", "initrc_t:s0", qemu, "process", "transition", `comm="containerd-shim"`,
			judgedMistake, "initrc_t", "cloister policy install",
		},
		{"started by hand", "unconfined_t:s0", qemu, "process", "transition", `comm="runcon"`, judgedHarmless, "runcon", ""},
		{
			"QEMU of one's own", qemu, "bin_t:s0", "file", "entrypoint", `path="/opt/qemu"`, judgedMistake, "",
			"chcon -t qemu_exec_t /opt/qemu",
		},
		{"a shell", qemu, "bin_t:s0", "file", "execute", `path="/usr/bin/dash"`, judgedAttack, "bin_t", ""},
		{"a terminal", qemu, "devpts_t:s0", "chr_file", "read write", `path="/dev/pts/0"`, judgedHarmless, "null device", ""},
		{"a terminal opened", qemu, "devpts_t:s0", "chr_file", "open", `path="/dev/pts/0"`, judgedAttack, "", ""},
		{"inherited", qemu, "initrc_t:s0", "fd", "use", `path="/dev/null"`, judgedHarmless, "null device", ""},
		{"shim", "cloister_shim_t:s0", "var_t:s0", "dir", "write", `name="x"`, judgedMistake, "", "cloister policy install"},
		{
			"shim, a listed socket", "cloister_shim_t:s0", "postgresql_t:s0", "unix_stream_socket", "connectto", `path="/run/x"`,
			judgedMistake, "only where the site adds a rule",
			"echo '(optional cloister_socket_postgresql_t (typeattributeset cloister_socket_server (postgresql_t)))' " +
				">cloister_socket_postgresql_t.cil && semodule -i cloister_socket_postgresql_t.cil",
		},
		{
			"shim, no label", "cloister_shim_t:s0", "unlabeled_t:s0", "file", "read", `path="/srv/x y"`,
			judgedMistake, "", "restorecon -RFv '/srv/x y'",
		},
		{
			"a program of the host", "logrotate_t:s0", "cloister_run_t:s0:c1,c2", "file", "read",
			`comm="logrotate"`, judgedHarmless, "logrotate", "",
		},
	}
	for _, tt := range tests {
		got := s.explain(denied(t, tt.source, tt.target, tt.class, tt.permissions, tt.extra))
		if got.Judgement != tt.want || !strings.Contains(got.Reason, tt.says) || !strings.HasPrefix(got.Remedy, tt.remedy) {
			t.Errorf("%s: explain = %+v, want %s, %q, %q", tt.name, got, tt.want, tt.says, tt.remedy)
		}
		if got.Judgement == judgedMistake && got.Remedy == "" || got.Judgement != judgedMistake && got.Remedy != "" {
			t.Errorf("%s: explain = %+v: a mistake has a remedy, and nothing else has", tt.name, got)
		}
		if strings.Contains(got.Remedy, "\n") {
			t.Errorf("%s: more than one command: %q", tt.name, got.Remedy)
		}
	}
}

func TestWhy(t *testing.T) {
	s := crowdedHost(t)
	log := strings.Join([]string{
		`type=AVC msg=audit(1795330000.123:1): avc:  denied  { read } for  pid=100 comm="qemu-system-x86" name="disk" dev="dm-0" ` +
			`ino=77 scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 tcontext=system_u:object_r:svirt_image_t:s0:c5,c6 ` +
			`tclass=file permissive=0`,
		`type=AVC msg=audit(1795330001.123:2): avc:  denied  { read } for  pid=100 comm="qemu-system-x86" name="disk" dev="dm-0" ` +
			`ino=77 scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 tcontext=system_u:object_r:svirt_image_t:s0:c5,c6 ` +
			`tclass=file permissive=0`,
		`type=AVC msg=audit(1795330002.123:3): avc:  denied  { read } for  pid=101 comm="virtiofsd" path="/srv/data" dev="dm-0" ` +
			`ino=78 scontext=system_u:system_r:cloister_virtiofsd_t:s0:c1,c2 tcontext=system_u:object_r:var_t:s0 tclass=dir permissive=1`,
		`type=AVC msg=audit(1000000000.123:4): avc:  denied  { read } for  pid=9 comm="old" ` +
			`scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 tcontext=system_u:object_r:var_t:s0 tclass=dir permissive=0`,
		`type=AVC msg=audit(1795330003.123:5): avc:  denied  { read } for  pid=8 comm="x" ` +
			`scontext=system_u:system_r:cloister_qemu_t:s0:c8,c9 tcontext=system_u:object_r:var_t:s0 tclass=dir permissive=0`,
	}, "\n")
	about, err := s.subject([]string{"one"}, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.root, auditLog)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.denials("")
	if err != nil || len(all) != 5 {
		t.Fatalf("denials gave %d and %v, want 5", len(all), err)
	}
	var ours []avc.Denial
	for _, d := range all {
		if about.has(d) {
			ours = append(ours, d)
		}
	}
	p, err := s.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := scene{levels: p.Levels, files: p.Files}.all(ours)
	for i := range list { // the time is printed in the place's own zone
		list[i].Last = list[i].Last.Local()
	}
	t.Setenv("TZ", "UTC")
	var out bytes.Buffer
	if err := printWhy(&out, about, list); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "machine-qemu") || !strings.Contains(text, "2 times") ||
		!strings.Contains(text, "let through") ||
		!strings.Contains(text, "-> chcon -R -t cloister_rootfs_t -l s0:c1,c2 /srv/data") ||
		!strings.Contains(text, "2 kinds of denials of sandbox default/one (class vm), 1 look like an attack") {
		t.Errorf("why says:\n%s", text)
	}
	if _, err := s.subject([]string{"two"}, ""); err == nil || !strings.Contains(err.Error(), "--level") {
		t.Errorf("a sandbox that is gone: %v", err)
	}
	if _, err := s.subject(nil, "s0:c1.c0"); err == nil {
		t.Error("a level that is none was taken")
	}
}

// TestWhyOfOtherLayers has records as kernels wrote them: Debian's with AppArmor, and one without
// any module.
func TestWhyOfOtherLayers(t *testing.T) {
	s := crowdedHost(t)
	s.plant(t, "default", "profiled", alive(t), func(r *statedir.Record) {
		r.Facts = map[string]string{"profile": "cloister-c182-c916"}
		r.Effects = []statedir.Effect{{Seq: 1, Kind: statedir.KindProcess, Process: sys.Process{PID: 28302}}}
	})
	about, err := s.subject([]string{"profiled"}, "")
	if err != nil {
		t.Fatal(err)
	}
	profile := func(operation, child, rest string) string {
		return `audit: type=1400 audit(1795961318.335:68): apparmor="DENIED" operation="` + operation + `" profile="cloister-c182-c916//` +
			child + `" pid=584 comm="cloister" ` + rest
	}
	call := func(pid, number, program string) string {
		return `audit: type=1326 audit(1795963477.066:34326): auid=4294967295 uid=1879400423 gid=1879400423 ses=4294967295 pid=` + pid +
			` comm="x" exe="` + program + `" sig=0 arch=c000003e syscall=` + number + ` compat=0 ip=0x7fab8e437447 code=0x50000`
	}
	const qemu = "/usr/bin/qemu-system-x86_64"
	tests := []struct {
		name, line string
		has        bool
		want       judgement
		says       string
	}{
		{
			"passwords", profile("open", "virtiofsd", `name="/etc/shadow" requested_mask="r" denied_mask="r" fsuid=0 ouid=0`), true,
			judgedAttack, "the file server (virtiofsd) has no reason for open of /etc/shadow",
		},
		{
			"another process", profile("ptrace", "qemu", `requested_mask="trace" denied_mask="trace" peer="unconfined"`), true,
			judgedAttack, "QEMU has no reason for ptrace",
		},
		{
			"a shell", profile("exec", "qemu", `name="/usr/bin/dash" requested_mask="x" denied_mask="x"`), true,
			judgedAttack, "/usr/bin/dash",
		},
		{"a capability", profile("capable", "virtiofsd", `capability=19  capname="sys_ptrace"`), true, judgedAttack, "capable"},
		{"priorities", profile("capable", "virtiofsd", `capability=23  capname="sys_nice"`), true, judgedHarmless, "priorities"},
		{
			"host features", profile("open", "qemu", `name="/proc/3/cgroup" requested_mask="r" denied_mask="r"`),
			true, judgedHarmless, "features",
		},
		{
			"a newer library", profile("open", "qemu", `name="/usr/lib/x.so" requested_mask="r" denied_mask="r"`),
			true, judgedMistake, "newer",
		},
		{
			"another sandbox's", strings.Replace(profile("open", "qemu", `name="/x" denied_mask="r"`), "c182", "c183", 1),
			false, judgedAttack, "/x",
		},
		{"a call at the start", call("28302", "425", qemu), true, judgedHarmless, "newer system call"},
		{"a call of one taken over", call("28302", "101", qemu), true, judgedAttack, "QEMU never calls ptrace"},
		{"a call that may be missing", call("28302", "28", qemu), true, judgedMistake, "does not include madvise"},
		{"a call of another's", call("28303", "101", "/usr/lib/qemu/virtiofsd"), false, judgedAttack, "virtiofsd"},
	}
	for _, tt := range tests {
		d, ok := avc.Parse(tt.line)
		if !ok {
			t.Errorf("%s: no denial: %s", tt.name, tt.line)
			continue
		}
		if got := about.has(d); got != tt.has {
			t.Errorf("%s: of the sandbox: %t, want %t", tt.name, got, tt.has)
		}
		if !(subject{all: true}).has(d) {
			t.Errorf("%s: of no guest", tt.name)
		}
		got := (scene{}).explain(d)
		if got.Judgement != tt.want || !strings.Contains(got.Reason, tt.says) || (got.Remedy != "") != (tt.want == judgedMistake) {
			t.Errorf("%s: explain = %+v, want %s, %q", tt.name, got, tt.want, tt.says)
		}
		var out bytes.Buffer
		if err := printWhy(&out, about, scene{}.all([]avc.Denial{d})); err != nil || strings.Contains(out.String(), "%!") {
			t.Errorf("%s: %v\n%s", tt.name, err, out.String())
		}
	}
}

func TestKernelLog(t *testing.T) {
	if _, err := readKernelLog(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a log that is not there was read")
	}
	if _, err := readKernelLog("/dev/kmsg"); err != nil {
		t.Skipf("the kernel's log: %v", err)
	}
}

func FuzzExplain(f *testing.F) {
	f.Add(`avc:  denied  { read } for  pid=1 comm="qemu" path="/a" scontext=u:r:cloister_qemu_t:s0:c1,c2 tcontext=u:r:t:s0 tclass=file`)
	f.Add(`audit(1.2:3): apparmor="DENIED" operation="open" profile="cloister-c1-c2//qemu" name="/a" denied_mask="r"`)
	f.Add(`type=1326 audit(1.2:3): pid=1 exe="/usr/bin/qemu-system-x86_64" arch=c000003e syscall=101 code=0x50000`)
	f.Fuzz(func(t *testing.T, line string) {
		d, ok := avc.Parse(line)
		if !ok {
			return
		}
		if a := (scene{}).explain(d); a.Judgement == "" || a.Reason == "" || a.Judgement == judgedMistake && a.Remedy == "" {
			t.Errorf("explain(%q) = %+v", line, a)
		}
	})
}
