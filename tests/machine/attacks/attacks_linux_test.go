// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/jail"
	"cloister/tests/testenv"
)

// maxTasks is fewer than the attack with processes makes.
const maxTasks = 100

// attack is one call of the attacker.
type attack struct{ name, target string }

// site is the host that is attacked.
type site struct {
	dir     string // root's folder that all users may write to
	program string
	tcp     string
	unix    string
	group   *cgroup.Group
}

// TestBrokenOutQEMU starts a program of an attacker's in QEMU's jail, with the root directory
// and the cgroup that QEMU has when its guest runs, and has it attack the host. Each attack is
// also made by root without a jail: there it must succeed, or it would show nothing.
func TestBrokenOutQEMU(t *testing.T) {
	testenv.NeedRoot(t)
	s := newSite(t)
	all := s.attacks(t)
	owner, err := jail.Config{}.Owner(os.Getpid()%jail.Ranks, false)
	if err != nil {
		t.Fatal(err)
	}
	denied, succeeded, controls := 0, 0, 0
	for _, a := range all {
		if result := s.run(t, s.jail(t, jail.Config{}, owner), a); strings.HasPrefix(result, "denied") {
			denied++
		} else {
			succeeded++
			t.Errorf("%s of %q in the jail: %s", a.name, a.target, result)
		}
		if result := s.run(t, jail.Jail{}, a); result == "succeeded" {
			controls++
		} else {
			t.Errorf("%s of %q without the jail: %s: the attack shows nothing", a.name, a.target, result)
		}
	}
	fmt.Printf("attacks[none]: %d tried, %d denied, %d succeeded; controls: %d of %d\n", len(all), denied, succeeded, controls, len(all))
}

// TestLayers leaves out one part of the jail at a time, and wants what the threat table says to
// stop an attack still.
func TestLayers(t *testing.T) {
	testenv.NeedRoot(t)
	s := newSite(t)
	all := s.attacks(t)
	// What one part alone stops; docs/threats.md has the same.
	alone := map[jail.Part][]string{
		jail.Users:   {"tgkill", "setuid"}, // of root's own processes, to root itself
		jail.Seccomp: {"netlink", "user namespace", "io_uring", "keyctl"},
		jail.RootDir: {"list"}, // what all users of the host may do
	}
	for _, part := range []jail.Part{jail.Users, jail.Capabilities, jail.Seccomp, jail.RootDir} {
		c := jail.Config{Disable: []jail.Part{part}}
		owner, err := c.Owner(os.Getpid()%jail.Ranks, false)
		if err != nil {
			t.Fatal(err)
		}
		var through []string
		for _, a := range all {
			if result := s.run(t, s.jail(t, c, owner), a); !strings.HasPrefix(result, "denied") && !slices.Contains(through, a.name) {
				through = append(through, a.name)
			}
		}
		t.Logf("without %s these succeed: %q", part, through)
		for _, name := range through {
			if !slices.Contains(alone[part], name) {
				t.Errorf("%s succeeds without %s: name it in docs/threats.md, or add a layer", name, part)
			}
		}
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	for dir := s.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s.program = filepath.Join(s.dir, "attacker")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", s.program, "cloister/tests/machine/attacks/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build attacker: %v\n%s", err, out)
	}
	s.tcp = listen(t, "tcp", "127.0.0.1:0")
	s.unix = listen(t, "unix", "@cloister-attack-"+strconv.Itoa(os.Getpid()))
	var err error
	if s.group, err = cgroup.At("/cloister-attacks-" + strconv.Itoa(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	devices := []cgroup.Device{{Major: 1, Minor: 3}, {Major: 1, Minor: 9}, {Major: 10, Minor: 232}}
	if err := s.group.Create(cgroup.Limits{Pids: maxTasks, Devices: devices}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.group.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// attacks are the attacks and their targets. The pid of a victim is filled in by run.
func (s *site) attacks(t *testing.T) []attack {
	t.Helper()
	disk := filepath.Join(s.dir, "disk")
	if err := unix.Mknod(disk, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil { // zero: no disk need be here
		t.Fatal(err)
	}
	all := []attack{
		{"read", "/etc/shadow"},
		{"read", "/etc/passwd"},
		{"read", "/proc/VICTIM/environ"},
		{"list", "/proc"},
		{"list", "/proc/VICTIM/fd"},
		{"list", "/proc/VICTIM/root"},
		{"list", "/"},
		{"read", disk},
		{"write", disk},
		{"write", "/proc/sys/kernel/core_pattern"},
		{"write", "/proc/VICTIM/oom_score_adj"},
		{"write", "/dev/kmsg"},
		{"create", filepath.Join(s.dir, "new")},
		{"fill", filepath.Join(s.dir, "full")},
		{"create", "/dev/shm/cloister-attack-" + strconv.Itoa(os.Getpid())},
		{"mknod", filepath.Join(s.dir, "node")},
		{"exec", "/bin/sh"},
		{"by handle", "/etc"},
		{"mount", s.dir},
		{"unix", s.unix},
		{"tcp", s.tcp},
	}
	for _, name := range []string{"ptrace", "pidfd_getfd", "process_vm_readv", "kill", "tgkill", "priority", "setns"} {
		all = append(all, attack{name, "VICTIM"})
	}
	for _, name := range []string{
		"raw socket", "netlink", "fork", "fsopen", "open_tree", "chroot", "unshare", "user namespace", "setuid", "keyctl", "bpf", "io_uring", "userfaultfd",
	} {
		all = append(all, attack{name, "-"})
	}
	return all
}

// jail is QEMU's, but that the attacker installs no filter of its own.
func (s *site) jail(t *testing.T, c jail.Config, owner jail.Owner) jail.Jail {
	t.Helper()
	j := jail.ForQEMU(c, owner)
	if j.Calls != nil {
		j.Calls.OwnFilters = 0
	}
	j.Group = s.group
	j = j.MayOpen(c, jail.Files{})
	if c.Has(jail.RootDir) {
		root, err := jail.NewRoot(false)
		if err != nil {
			t.Fatal(err)
		}
		j.Root = root
	}
	return j
}

// run makes one attack, on a victim of root's of its own, and gives what the attacker says.
func (s *site) run(t *testing.T, j jail.Jail, a attack) string {
	t.Helper()
	victim := exec.CommandContext(t.Context(), testenv.NeedTool(t, "sleep"), "1000")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	victim.Stdout = null
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = victim.Process.Kill(), victim.Wait() }()
	target := strings.ReplaceAll(a.target, "VICTIM", strconv.Itoa(victim.Process.Pid))
	if a.name == "process_vm_readv" {
		maps, err := os.ReadFile("/proc/" + target + "/maps")
		if err != nil {
			t.Fatal(err)
		}
		address, _, _ := strings.Cut(string(maps), "-")
		target += " " + address
	}
	for _, name := range []string{"new", "full", "node"} {
		_ = os.Remove(filepath.Join(s.dir, name))
	}
	defer os.Remove("/dev/shm/cloister-attack-" + strconv.Itoa(os.Getpid()))
	defer func() { _ = unix.Unmount(s.dir, unix.MNT_DETACH) }() // what a control has mounted
	return s.attack(t, j, a.name, target)
}

func (s *site) attack(t *testing.T, j jail.Jail, name, target string) string {
	t.Helper()
	in, begin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	cmd := exec.CommandContext(t.Context(), s.program, name, target)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = in, out, out, "/"
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	_, _ = in.Close(), out.Close()
	if j.Root != nil {
		err = replace(j.Root, filepath.Join(s.dir, "empty"))
	}
	if err == nil {
		err = j.Verify(cmd.Process.Pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = begin.WriteString("\n")
	_ = begin.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	result := strings.TrimSpace(string(text))
	if err := cmd.Wait(); err != nil {
		result = strings.TrimSpace(fmt.Sprintf("denied: it ended: %v %s", err, result))
	}
	if result == "" && name == "exec" {
		result = "succeeded" // the program that it became says nothing
	}
	return result
}

// replace gives the attacker an empty root directory that cannot be written to, as QEMU has.
func replace(r *jail.Root, dir string) error {
	if err := os.MkdirAll(dir, 0o555); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	return r.Replace(tree)
}
