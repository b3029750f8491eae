// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloister/cmd/internal/config"
	"cloister/labels"
	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0A01A8C0:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 0A01A8C0:0CEA 0B01A8C0:9000 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
`

const tcp6Table = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000000000000:006F 00000000000000000000000000000000:0000 0A
`

func TestParseListeners(t *testing.T) {
	addr := netip.MustParseAddr
	tests := []struct {
		name, in string
		want     []listener
		wantErr  bool
	}{
		{"v4", tcpTable, []listener{
			{"tcp", addr("0.0.0.0"), 22},
			{"tcp", addr("127.0.0.1"), 8080},
			{"tcp", addr("192.168.1.10"), 3306},
		}, false},
		{"v6", tcp6Table, []listener{{"tcp", addr("::1"), 8080}, {"tcp", addr("::"), 111}}, false},
		{"empty", "", nil, false},
		{"odd digits", "head\n0: 0A0:16 0:0 0A\n", nil, true},
		{"no port", "head\n0: 00000000 0:0 0A\n", nil, true},
	}
	for _, tt := range tests {
		got, err := parseListeners([]byte(tt.in), "tcp", tcpListen)
		if (err != nil) != tt.wantErr {
			t.Errorf("%s: %v, want an error: %t", tt.name, err, tt.wantErr)
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func FuzzParseListeners(f *testing.F) {
	f.Add([]byte(tcpTable))
	f.Add([]byte(tcp6Table))
	f.Fuzz(func(_ *testing.T, text []byte) {
		list, _ := parseListeners(text, "tcp", tcpListen)
		ports(list)
	})
}

// TestCheckGolden checks a host of files, in the areas that look at nothing else.
func TestCheckGolden(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"check-good": {
			"proc/net/tcp": tcpTable[:len("  sl  local_address rem_address   st tx_queue rx_queue tr "+
				"tm->when retrnsmt   uid  timeout inode\n")],
			"proc/sys/net/ipv4/ip_forward": "0\n", "proc/sys/kernel/randomize_va_space": "2\n",
			"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/virt_use_nfs": "0 0",
		},
		"check-bad": {
			"proc/net/tcp": tcpTable, "proc/net/tcp6": tcp6Table,
			"proc/sys/net/ipv4/ip_forward": "1\n", "proc/sys/net/ipv6/conf/all/forwarding": "1\n",
			"proc/sys/kernel/randomize_va_space": "1\n",
			"sys/fs/selinux/enforce":             "0", "sys/fs/selinux/booleans/virt_use_nfs": "1 1",
			"sys/fs/selinux/booleans/virt_use_usb": "1 1",
		},
	} {
		s := fakeSite(t, files)
		list := s.check(t.Context(), []area{{"network", checkNetwork}, {"booleans", checkBooleans}})
		list = append(list, s.aslr())
		var out bytes.Buffer
		if err := printFindings(&out, list, false); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", out.String())
		if err := verdict(list); (err != nil) != (name == "check-bad") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAccel(t *testing.T) {
	yes := func() error { return nil }
	no := func() error { return os.ErrNotExist }
	cpu := func(flags string) func() ([]byte, error) {
		return func() ([]byte, error) { return []byte("flags : fpu " + flags + "\n"), nil }
	}
	tests := []struct {
		name string
		want vmm.Accel
		host qemu.Host
		got  grade
	}{
		{"kvm", vmm.AccelAuto, qemu.Host{CPUInfo: cpu("svm"), OpenKVM: yes}, gradeOK},
		{"paravirtual", vmm.AccelAuto, qemu.Host{CPUInfo: cpu(""), OpenKVM: yes}, gradeWarn},
		{"emulated on purpose", vmm.AccelTCG, qemu.Host{CPUInfo: cpu(""), OpenKVM: no}, gradeWarn},
		{"kvm wanted", vmm.AccelKVM, qemu.Host{CPUInfo: cpu("vmx"), OpenKVM: no}, gradeFail},
	}
	for _, tt := range tests {
		if f := accel(tt.want, tt.host); f.Grade != tt.got {
			t.Errorf("%s: %+v, want %s", tt.name, f, tt.got)
		}
	}
}

func TestSystemFolder(t *testing.T) {
	for path, want := range map[string]bool{
		"/etc": true, "/etc/x": true, "/home/a/images": true, "/root": true, "/var": true, "/sys/x": true,
		"/": true, "/usr/share/x": true, "/srv": true,
		"/var/lib/cloister": false, "/srv/images": false, "/etcetera": false, "/run/cloister": false,
	} {
		if _, got := systemFolder(path); got != want {
			t.Errorf("systemFolder(%q) = %t, want %t", path, got, want)
		}
	}
}

func TestFolders(t *testing.T) {
	s := fakeSite(t, nil)
	if f := s.folder("state", "/etc/guests"); f.Grade != gradeFail || f.Remedy == "" {
		t.Errorf("a folder in /etc: %+v", f)
	}
	s.config.State, s.config.Root = "/run/cloister", "/var/lib/cloister"
	for _, f := range checkFolders(t.Context(), s) {
		if f.Grade == gradeFail {
			t.Errorf("the usual folders: %+v", f)
		}
	}
}

func TestRemedies(t *testing.T) {
	s := fakeSite(t, nil)
	s.config.Machine.QEMU = "/nowhere/qemu"
	s.config.Guest.Image = t.TempDir()
	for _, f := range append(checkPrograms(t.Context(), s)[:1], append(checkImage(t.Context(), s), checkLabels(t.Context(), s)...)...) {
		if f.Grade != gradeFail {
			t.Errorf("%+v: want fail with a remedy", f)
		}
	}
}

// TestProgramThatCannotRun is there, but a library that it needs is not.
func TestProgramThatCannotRun(t *testing.T) {
	s := fakeSite(t, nil)
	s.config.Machine.QEMU = filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(s.config.Machine.QEMU, []byte("#!/bin/sh\necho libc.so.6 not found >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := checkPrograms(t.Context(), s)[0]
	if f.Grade != gradeFail || !strings.Contains(f.Found, "libc.so.6 not found") || f.Remedy == "" {
		t.Errorf("a program that does not run: %+v, want fail with what it says and a remedy", f)
	}
}

// TestProgramOfOthersIsNotRun: root does not run what somebody else may change.
func TestProgramOfOthersIsNotRun(t *testing.T) {
	testenv.NeedRoot(t)
	s := fakeSite(t, nil)
	dir := t.TempDir()
	s.config.Machine.QEMU = filepath.Join(dir, "qemu")
	script := "#!/bin/sh\ntouch " + filepath.Join(dir, "ran") + "\necho version 1\n"
	err := errors.Join(os.WriteFile(s.config.Machine.QEMU, []byte(script), 0o755), os.Chown(s.config.Machine.QEMU, 1000, 1000))
	if err != nil {
		t.Fatal(err)
	}
	f := checkPrograms(t.Context(), s)[0]
	if f.Grade != gradeFail || !strings.Contains(f.Found, "owner is uid 1000") {
		t.Errorf("a program of another user: %+v, want fail, as a start does, with the owner", f)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was run: %v", err)
	}
}

// TestFirmwareOfOthersIsFound: a start refuses a QEMU whose firmware others may replace.
func TestFirmwareOfOthersIsFound(t *testing.T) {
	testenv.NeedRoot(t)
	s := fakeSite(t, nil)
	dir := t.TempDir()
	share := filepath.Join(dir, "share")
	s.config.Machine.QEMU = filepath.Join(dir, "bin", "qemu")
	if err := errors.Join(os.Mkdir(share, 0o755), os.Mkdir(filepath.Dir(s.config.Machine.QEMU), 0o755),
		os.WriteFile(s.config.Machine.QEMU, []byte("#!/bin/sh\necho version 1\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if f := checkPrograms(t.Context(), s)[0]; f.Grade != gradeOK {
		t.Errorf("root's firmware: %+v, want ok", f)
	}
	if err := errors.Join(os.Chown(share, 0, 50), os.Chmod(share, 0o775)); err != nil {
		t.Fatal(err)
	}
	if f := checkPrograms(t.Context(), s)[0]; f.Grade != gradeFail || !strings.Contains(f.Found, "chmod go-w "+share) {
		t.Errorf("firmware of a group: %+v, want fail that names the folder", f)
	}
}

// TestLinkOfOthersIsFound: a start refuses a program by a link that others may replace.
func TestLinkOfOthersIsFound(t *testing.T) {
	testenv.NeedRoot(t)
	s := fakeSite(t, nil)
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	s.config.Machine.Virtiofsd = filepath.Join(open, "virtiofsd")
	if err := errors.Join(os.Mkdir(open, 0o755), os.WriteFile(filepath.Join(dir, "program"), []byte("#!/bin/sh\necho version 1\n"), 0o755),
		os.Symlink("../program", s.config.Machine.Virtiofsd), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	if f := checkPrograms(t.Context(), s)[1]; f.Grade != gradeFail || !strings.Contains(f.Found, "chmod go-w "+open) {
		t.Errorf("%+v, want fail that names the link's folder", f)
	}
}

// TestRustExcusesTheFileServerAlone has a program without a canary that holds a part in Rust.
func TestRustExcusesTheFileServerAlone(t *testing.T) {
	cc := testenv.NeedTool(t, "cc") // of gcc, with libc6-dev
	dir := t.TempDir()
	source, program := filepath.Join(dir, "a.c"), filepath.Join(dir, "a")
	text := "const char *panic = \"/usr/src/rustc-1.85.0/library/std/src/io/mod.rs\";\nint main(void) { return 0; }\n"
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"-O0", "-fPIE", "-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-Wl,-z,relro,-z,now", "-o", program, source}
	if text, err := exec.CommandContext(t.Context(), cc, flags...).CombinedOutput(); err != nil {
		t.Fatalf("compile: %v: %s", err, text)
	}
	s := fakeSite(t, nil)
	s.config.Machine.QEMU, s.config.Machine.Virtiofsd = program, program
	list := checkHardening(t.Context(), s)
	if f := list[0]; f.Grade != gradeWarn || !strings.Contains(f.Found, "no stack canary") {
		t.Errorf("QEMU with a part in Rust: %+v, want a warning", f)
	}
	if f := list[1]; f.Grade != gradeOK || !strings.Contains(f.Found, "Rust") {
		t.Errorf("a file server in Rust: %+v, want ok", f)
	}
}

// TestCheckConfig: a config that no sandbox starts with is one line that says fail.
func TestCheckConfig(t *testing.T) {
	s := fakeSite(t, nil)
	t.Setenv(config.Env, filepath.Join(t.TempDir(), "none.toml"))
	out, _, err := s.bare(t, "check", "--json")
	var list []finding
	if err == nil || json.Unmarshal([]byte(out), &list) != nil {
		t.Fatalf("check: %q, %v", out, err)
	}
	list = slices.DeleteFunc(list, func(f finding) bool { return f.Area != "config" })
	if len(list) != 1 || list[0].Grade != gradeFail || !strings.Contains(list[0].Found, config.Env) || list[0].Remedy == "" {
		t.Errorf("a config that is not there: %+v", list)
	}
}

// TestLostProfiles: AppArmor's tools take the profiles of sandboxes that run away.
func TestLostProfiles(t *testing.T) {
	self := alive(t)
	current := func(s *site, task int, text string) {
		file := s.path("proc", strconv.Itoa(self.PID), "task", strconv.Itoa(task), "attr/apparmor/current")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", self, func(r *statedir.Record) {
		r.Facts["profile"] = "cloister-c1-c2"
		r.Effects = r.Effects[1:] // both are this process, which has one profile
	})
	s.plant(t, "default", "without", self, nil)
	current(s, 1, "cloister-c1-c2//qemu (enforce)\n")
	if list := s.lostProfiles(); len(list) != 1 || list[0].Grade != gradeOK || !strings.HasPrefix(list[0].Found, "1 processes") {
		t.Errorf("with its profile: %+v", list)
	}
	current(s, 2, "unconfined\n")
	if list := s.lostProfiles(); len(list) != 1 || list[0].Grade != gradeFail || !strings.Contains(list[0].Found, "default/one, qemu") {
		t.Errorf("one thread without it: %+v", list)
	}
}

// TestShimOfALoginHasTheSystemsRole covers root's shell on a host where logins have users and roles
// of their own: a label with a login's role and the shim's type would not be valid.
func TestShimOfALoginHasTheSystemsRole(t *testing.T) {
	own, err := labels.Parse("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := entered(own).String(), "unconfined_u:system_r:cloister_shim_t:s0"; got != want {
		t.Errorf("entered(%v) = %s, want %s", own, got, want)
	}
}
