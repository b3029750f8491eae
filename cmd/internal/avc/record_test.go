// SPDX-License-Identifier: Apache-2.0

package avc

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloister/labels"
)

const (
	auditLine = `type=AVC msg=audit(1700000000.123:456): avc:  denied  { read write } for  pid=1234 comm="qemu-system-x86" ` +
		`name="disk.img" dev="dm-0" ino=77 scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 ` +
		`tcontext=system_u:object_r:cloister_image_t:s0:c3,c4 tclass=file permissive=0`
	kmsgLine = `5,1234,98765,-;audit: type=1400 audit(1700000001.005:457): avc:  denied  { connectto } for  pid=9 comm="a b" ` +
		`path=002F746D7020 scontext=system_u:system_r:cloister_qemu_t:s0:c1,c2 tcontext=system_u:system_r:init_t:s0 ` +
		`tclass=unix_stream_socket permissive=1`
	pathLine = `type=PATH msg=audit(1700000000.123:456): item=0 name="/srv/guests/disk.img" inode=77 dev=fd:00 mode=0100600 ` +
		`nametype=NORMAL`
)

func label(t *testing.T, text string) labels.Label {
	t.Helper()
	l, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func first(t *testing.T) Denial {
	t.Helper()
	return Denial{
		By:    SELinux,
		Event: "1700000000.123:456", Time: time.UnixMilli(1700000000123).UTC(), Permissions: []string{"read", "write"}, Class: "file",
		PID: 1234, Command: "qemu-system-x86", Path: "disk.img", Device: "dm-0", Inode: 77,
		Source: label(t, "system_u:system_r:cloister_qemu_t:s0:c1,c2"), Target: label(t, "system_u:object_r:cloister_image_t:s0:c3,c4"),
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     Denial
		wantOK   bool
	}{
		{"audit.log", auditLine, first(t), true},
		{"AppArmor", `type=AVC msg=audit(1700000000.123:456): apparmor="DENIED" operation="open" profile="cloister-c1-c2//qemu" ` +
			`name=2F6120 pid=584 comm="cloister" requested_mask="rw" denied_mask="rw" fsuid=0 ouid=0`, Denial{
			By: AppArmor, Event: "1700000000.123:456", Time: time.UnixMilli(1700000000123).UTC(), Permissions: []string{"rw"},
			Class: "open", PID: 584, Command: "cloister", Path: "/a ", Profile: "cloister-c1-c2//qemu",
		}, true},
		{"AppArmor's status", `type=1400 audit(1700000000.123:456): apparmor="STATUS" operation="profile_load" profile="unconfined" ` +
			`name="cloister-c1-c2" pid=5 comm="apparmor_parser"`, Denial{}, false},
		{"a list of system calls, let through", `type=SECCOMP msg=audit(1700000000.123:456): auid=4294967295 uid=0 gid=0 ses=4294967295 ` +
			`subj=cloister-c1-c2//virtiofsd (enforce) pid=9 comm="virtiofsd" exe="/usr/libexec/virtiofsd" sig=0 arch=c000003e ` +
			`syscall=435 compat=0 ip=0x7f code=0x7ffc0000`, Denial{
			By: Seccomp, Event: "1700000000.123:456", Time: time.UnixMilli(1700000000123).UTC(), Permissions: []string{"clone3"},
			Class: "system call", PID: 9, Command: "virtiofsd", Profile: "cloister-c1-c2//virtiofsd", Program: "/usr/libexec/virtiofsd",
			Permissive: true,
		}, true},
		{"a list of system calls, with SELinux", `type=1326 audit(1.2:3): subj=system_u:system_r:cloister_qemu_t:s0:c1,c2 pid=9 exe="/x" ` +
			`arch=c000003e syscall=101 code=0x50000`, Denial{
			By: Seccomp, Event: "1.2:3", Time: time.UnixMilli(1002).UTC(), Permissions: []string{"ptrace"}, Class: "system call",
			PID: 9, Program: "/x", Source: label(t, "system_u:system_r:cloister_qemu_t:s0:c1,c2"),
		}, true},
		{"a system call of another kind of program", `type=1326 audit(1.2:3): pid=9 exe="/x" arch=40000003 syscall=1 code=0x50000`, Denial{
			By: Seccomp, Event: "1.2:3", Time: time.UnixMilli(1002).UTC(), Permissions: []string{"number 1"}, Class: "system call", PID: 9,
			Program: "/x",
		}, true},
		{"a file named as a record", strings.Replace(auditLine, `"disk.img"`, `"x type=1326 audit(1.2:3): y"`, 1), func() Denial {
			d := first(t)
			d.Path = "x type=1326 audit(1.2:3): y"
			return d
		}(), true},
		{"kernel log, hexadecimal", kmsgLine, Denial{
			By:    SELinux,
			Event: "1700000001.005:457", Time: time.UnixMilli(1700000001005).UTC(),
			Permissions: []string{"connectto"}, Class: "unix_stream_socket",
			PID: 9, Command: "a b", Path: "\x00/tmp ", Permissive: true,
			Source: label(t, "system_u:system_r:cloister_qemu_t:s0:c1,c2"), Target: label(t, "system_u:system_r:init_t:s0"),
		}, true},
		{"granted", strings.Replace(auditLine, "denied", "granted", 1), Denial{}, false},
		{"cut off", auditLine[:120], Denial{}, false},
		{"no label", strings.Replace(auditLine, "s0:c3,c4", "nonsense", 1), Denial{}, false},
		{"a name that looks like a field", strings.Replace(auditLine, `"disk.img"`, `"x tclass=process"`, 1), func() Denial {
			d := first(t)
			d.Path = "x tclass=process"
			return d
		}(), true},
		{"too long", auditLine + strings.Repeat("x", maxLine), Denial{}, false},
	}
	for _, tt := range tests {
		got, ok := Parse(tt.in)
		if ok != tt.wantOK {
			t.Errorf("%s: Parse gave %t, want %t", tt.name, ok, tt.wantOK)
			continue
		}
		if !ok {
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(labels.Label{})); diff != "" {
			t.Errorf("%s: Parse (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestRead(t *testing.T) {
	log := strings.Join([]string{"noise", auditLine, pathLine, strings.Repeat("y", 3*maxLine), kmsgLine, auditLine[:60]}, "\n")
	got, err := Read(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("Read gave %d denials, want 2", len(got))
	}
	if got[0].Path != "/srv/guests/disk.img" {
		t.Errorf("path = %q, want the PATH record's", got[0].Path)
	}
	if got[1].Class != "unix_stream_socket" {
		t.Errorf("class = %q, want unix_stream_socket", got[1].Class)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(auditLine)
	f.Add(kmsgLine)
	f.Add(pathLine)
	f.Add(`avc:  denied  { a } for x= =y scontext= "`)
	f.Fuzz(func(t *testing.T, line string) {
		d, ok := Parse(line)
		if ok && (d.Class == "" || d.Source.IsZero() || d.Target.IsZero() || len(d.Path) > maxField) {
			t.Errorf("Parse(%q) = %+v", line, d)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add(auditLine + "\n" + pathLine)
	f.Fuzz(func(t *testing.T, log string) {
		list, err := Read(strings.NewReader(log))
		if err != nil || len(list) > strings.Count(log, deniedMark) {
			t.Errorf("Read gave %d denials and %v", len(list), err)
		}
	})
}
