// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"bufio"
	"errors"
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

	"cloister/sandbox/jail"
	"cloister/tests/machine/served"
	"cloister/tests/testenv"
)

// ready is what the attacker says when it has opened what a server has open.
const ready = "ready\n"

// attack is one of the attacker's. Its arguments in the jail and in the control differ where the
// control has another name for the same thing.
type attack struct {
	name          string
	args, control []string
}

// TestCompromisedFileServer starts a program of an attacker's in the file server's jail, with the
// server's descriptors and root directory, and has it attack the host. Each attack is also made
// by root without a jail: there it must succeed, or it would show nothing.
func TestCompromisedFileServer(t *testing.T) {
	testenv.NeedRoot(t)
	program := build(t)
	h := newTree(t)
	all := h.attacks(t)
	denied, controls := 0, 0
	for _, a := range all {
		if result := h.run(t, program, a.name, a.args, &jail.Config{}); strings.HasPrefix(result, "denied") {
			denied++
			t.Logf("%s %q: %s", a.name, a.args, result)
		} else {
			t.Errorf("%s %q in the jail: %s", a.name, a.args, result)
		}
		args := a.args
		if a.control != nil {
			args = a.control
		}
		if result := h.run(t, program, a.name, args, nil); result == "succeeded" {
			controls++
		} else {
			t.Errorf("%s %q without the jail: %s: the attack shows nothing", a.name, args, result)
		}
	}
	fmt.Printf("attacks[virtiofsd]: %d tried, %d denied, %d succeeded; controls: %d of %d\n",
		len(all), denied, len(all)-denied, controls, len(all))
}

// build builds the attacker into a folder of the test's.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "attacker")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "cloister/tests/machine/fileserver/attacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build attacker: %v\n%s", err, out)
	}
	return program
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

// attacks are the attacks; VICTIM stands for the pid of a process of root's. The server's names
// begin at its root, which is the view.
func (h *host) attacks(t *testing.T) []attack {
	t.Helper()
	secret, file := filepath.Join(h.dir, "secret"), filepath.Join(h.volume, "file")
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(h.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	one, two := filepath.Join(h.dir, "one"), filepath.Join(h.dir, "two")
	tcp, abstract := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", "@cloister-fileserver-"+strconv.Itoa(os.Getpid()))
	return []attack{
		{"dotdot", []string{secret, "read"}, nil},
		{"dotdot", []string{"/etc/shadow", "read"}, nil},
		{"dotdot", []string{"VICTIM/environ", "read"}, nil},
		{"dotdot", []string{"sys/kernel/core_pattern", "write"}, nil},
		{"dotdot", []string{"proc/sys/kernel/core_pattern", "write"}, nil},
		{"chroot", []string{"/etc/shadow", "/a/rw/jail"}, []string{"/etc/shadow", filepath.Join(h.volume, "jail")}},
		{"open", []string{"/etc/shadow"}, nil},
		{"open", []string{secret}, nil},
		{"open", []string{"/proc/VICTIM/environ"}, nil},
		{"device", []string{"/a/rw/zero"}, []string{filepath.Join(h.dir, "zero")}},
		{"write", []string{"/b/ro/file"}, []string{file}},
		{"link", []string{"/b/ro/file", "/a/rw/linked"}, []string{file, filepath.Join(h.volume, "linked")}},
		{"link", []string{"/a/rw/file", "/b/ro/linked"}, []string{file, filepath.Join(h.volume, "linked")}},
		{"swap", []string{"/a", "/b"}, []string{one, two}},
		{"swap", []string{"/a/rw", "/b/ro"}, []string{one, two}},
		{"userns", nil, nil},
		{"mountns", nil, nil},
		{"mount", []string{"/a/rw"}, []string{one}},
		{"remount", []string{"/b/ro"}, []string{filepath.Join(h.view, "b/ro")}},
		{"kill", []string{"VICTIM"}, nil},
		{"ptrace", []string{"VICTIM"}, nil},
		{"setns", []string{"VICTIM"}, nil},
		{"handle", []string{"/a/rw/file"}, []string{file}},
		{"connect", []string{"tcp", tcp}, nil},
		{"connect", []string{"unix", abstract}, nil},
		{"xattr", []string{"/a/rw/file"}, []string{file}},
	}
}

// TestFileServerWithoutOneLayer leaves out one part of the jail at a time, and wants every attack
// to be stopped still but those that the threat table lists for that part alone.
func TestFileServerWithoutOneLayer(t *testing.T) {
	program := build(t)
	h := newTree(t)
	all := h.attacks(t)
	alone := map[jail.Part][]string{
		jail.Capabilities: {"xattr"}, // a host's trusted attributes; servers keep them from their guest, too
		jail.Seccomp:      {"userns"},
	}
	for _, part := range []jail.Part{jail.Capabilities, jail.Seccomp, jail.Landlock} {
		var through []string
		for _, a := range all {
			result := h.run(t, program, a.name, a.args, &jail.Config{Disable: []jail.Part{part}})
			if strings.HasPrefix(result, "denied") {
				continue
			}
			through = append(through, a.name)
			if !slices.Contains(alone[part], a.name) {
				t.Errorf("%s %q succeeds without %s: name it in docs/threats.md, or add a layer", a.name, a.args, part)
			}
		}
		t.Logf("without %s these succeed: %q", part, through)
	}
}

// run makes one attack, without a jail when there is no configuration, and gives what the attacker
// says.
func (h *host) run(t *testing.T, program, name string, args []string, c *jail.Config) string {
	t.Helper()
	victim := exec.CommandContext(t.Context(), testenv.NeedTool(t, "sleep"), "1000")
	victim.Env = []string{"SECRET=x"}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = victim.Process.Kill(), victim.Wait() }()
	all := []string{name}
	for _, a := range args {
		all = append(all, strings.ReplaceAll(a, "VICTIM", strconv.Itoa(victim.Process.Pid)))
	}
	_ = os.Remove(filepath.Join(h.volume, "linked"))
	in, begin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	said := bufio.NewReader(answer)
	cmd := exec.CommandContext(t.Context(), program, all...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	var top *os.File
	if c != nil {
		top = h.jailed(t, *c, cmd, said)
	} else {
		// A mount namespace keeps what a control mounts from the tests.
		cmd.Dir, cmd.SysProcAttr = h.view, &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = in.Close(), out.Close()
	if top != nil {
		_ = top.Close()
	}
	_, _ = begin.WriteString("\n")
	_ = begin.Close()
	text, err := io.ReadAll(said)
	if err != nil {
		t.Fatal(err)
	}
	result := strings.TrimSpace(strings.TrimPrefix(string(text), ready))
	if err := cmd.Wait(); err != nil && result == "" {
		result = fmt.Sprintf("denied: it ended: %v", err)
	}
	return result
}

// jailed starts the attacker as the file server is, up to where its guest runs. It has not given up
// the capabilities that servers give up.
func (h *host) jailed(t *testing.T, c jail.Config, cmd *exec.Cmd, said *bufio.Reader) *os.File {
	t.Helper()
	j := served.Jail(t, c).MayOpen(c, jail.Files{Tree: h.view})
	j.Kept = nil
	if j.Calls != nil {
		j.Calls.OwnFilters = 0
	}
	top, err := j.Root.Folder(h.view)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = h.view
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if line, err := said.ReadString('\n'); err != nil || line != ready {
		t.Fatalf("the attacker says %q, %v", line, err)
	}
	if err := errors.Join(j.Verify(cmd.Process.Pid), j.Root.Pivot(top), jail.VerifyRoot(cmd.Process.Pid, top)); err != nil {
		t.Fatal(err)
	}
	return top
}
