// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/prove"
	"cloister/tests/testenv"
)

// ready is what the attacker says when it has opened what a server has open.
const ready = "ready"

// What an attacker says of an attack.
const (
	succeeded = "succeeded"
	denied    = "denied: "
)

// attack is one of the attacker's, which stands for a server that was taken over. name and on are
// for people, and those of package prove where it makes the same attack.
type attack struct {
	name, on string
	do       string
	args     []string
}

// Words of an attack's arguments: the tree as its process has it, and the pid of a process of
// root's.
const (
	treeWord   = "TREE"
	victimWord = "VICTIM"
)

// final tells an attack after which its process is another one.
func (a attack) final() bool {
	return slices.Contains([]string{"chroot", "mountns", "mount", "remount", "setns", "ptrace", "userns"}, a.do)
}

// broken are the attacks of a server that was taken over. dir is what the tree lies in.
func broken(t *testing.T, dir string) []attack {
	t.Helper()
	const (
		up    = "..: each descriptor"
		rw    = treeWord + "/c/rw"
		ro    = treeWord + "/v/ro"
		root  = "a process of root"
		link  = "link"
		linkd = "/linked"
	)
	secret := filepath.Join(dir, "secret")
	tcp, abstract := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", "@cloister-fileserver-"+strconv.Itoa(os.Getpid()))
	return []attack{
		{up, "a file beside the tree", "dotdot", []string{secret, "read"}},
		{up, "/etc/shadow", "dotdot", []string{"/etc/shadow", "read"}},
		{up, "environ of a process of root", "dotdot", []string{victimWord + "/environ", "read"}},
		{up, "core_pattern, from /proc", "dotdot", []string{"sys/kernel/core_pattern", "write"}},
		{up, "core_pattern", "dotdot", []string{"proc/sys/kernel/core_pattern", "write"}},
		{"chroot and ..", "/etc/shadow", "chroot", []string{"/etc/shadow", rw + "/jail"}},
		{"read", "/etc/shadow", "open", []string{"/etc/shadow"}},
		{"read", "a file beside the tree", "open", []string{secret}},
		{"read environ", root, "open", []string{"/proc/" + victimWord + "/environ"}},
		{"mknod and open", "a device", "device", []string{rw + "/zero"}},
		{"write", "a read-only volume", "write", []string{ro + "/file"}},
		{"copy_file_range into", "a read-only volume", "copy", []string{rw + "/file", ro + "/file"}},
		{"link out of", "a read-only volume", link, []string{ro + "/file", rw + linkd}},
		{"link into", "a read-only volume", link, []string{rw + "/file", ro + linkd}},
		{"exchange of the parents", "mounts", "swap", []string{treeWord + "/c", treeWord + "/v"}},
		{"exchange", "mounts", "swap", []string{rw, ro}},
		{"user namespace", "", "userns", nil},
		{"unshare", "mounts", "mountns", nil},
		{"mount", "a volume", "mount", []string{rw}},
		{"remount", "the tree", "remount", []string{treeWord + "/"}},
		{"kill", root, "kill", []string{victimWord}},
		{"ptrace", root, "ptrace", []string{victimWord}},
		{"setns", root, "setns", []string{victimWord}},
		{"by handle", "a volume", "handle", []string{rw + "/file"}},
		{"tcp", "the host's loopback", "connect", []string{"tcp", tcp}},
		{"unix", "an abstract socket", "connect", []string{"unix", abstract}},
		{"trusted attribute", "a volume", "xattr", []string{rw + "/file"}},
	}
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

// round makes attacks with some layers on one tree, and gives what the attacker says of each. One
// process makes as many as it survives.
func (p *place) round(t *testing.T, list []attack, with []prove.Layer, bare bool) []string {
	t.Helper()
	said := make([]string, len(list))
	t.Run(roundName(with, bare), func(t *testing.T) {
		h := newTree(t, p.dir, bare, func(dir string) { p.admitTree(t, dir) })
		var attacker *process
		victim := startVictim(t)
		defer func() {
			attacker.end()
			_, _ = victim.Process.Kill(), victim.Wait()
		}()
		for i, a := range list {
			if attacker == nil {
				attacker = p.attacker(t, h, with)
			}
			tree := h.view
			if slices.Contains(with, prove.Root) {
				tree = ""
			}
			said[i] = attacker.attack(a, tree, victim.Process.Pid)
			if a.final() || !strings.HasPrefix(said[i], denied) && said[i] != succeeded {
				attacker.end()
				attacker = nil
			}
			if said[i] == succeeded && (a.do == "kill" || a.do == "ptrace") {
				_, _ = victim.Process.Kill(), victim.Wait()
				victim = startVictim(t)
			}
			h.restore(t, a, said[i])
		}
	})
	return said
}

func roundName(with []prove.Layer, bare bool) string {
	name := "no layer"
	if len(with) == 1 {
		name = string(with[0])
	} else if len(with) > 1 {
		name = strconv.Itoa(len(with)) + " layers"
	}
	if bare {
		name += ", bare tree"
	}
	return name
}

func startVictim(t *testing.T) *exec.Cmd {
	t.Helper()
	victim := exec.CommandContext(t.Context(), testenv.NeedTool(t, "sleep"), "1000")
	victim.Env = []string{"SECRET=x"}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	return victim
}

// restore takes back what an attack has made: another one is to find what this one found.
func (h *host) restore(t *testing.T, a attack, said string) {
	t.Helper()
	for _, name := range []string{"new", "view/c/rw/linked", "view/v/ro/linked", "view/c/rw/zero", "view/c/rw/jail"} {
		_ = os.Remove(filepath.Join(h.dir, name))
	}
	_ = unix.Removexattr(filepath.Join(h.view, "c/rw/file"), "trusted.overlay.redirect")
	if said != succeeded {
		return
	}
	switch a.do {
	case "swap":
		x, y := strings.Replace(a.args[0], treeWord, h.view, 1), strings.Replace(a.args[1], treeWord, h.view, 1)
		if err := unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE); err != nil {
			t.Fatal(err)
		}
	case "name":
		h.write(t, "secret", "secret")
	}
}

// process is an attacker that runs. conn is a socket, which a confined program may use: a pipe
// would be the test's own by label.
type process struct {
	cmd   *exec.Cmd
	conn  *os.File
	lines *bufio.Reader
}

// attacker starts the attacker as the file server is, up to where its guest runs. It has not given
// up the capabilities that servers give up.
func (p *place) attacker(t *testing.T, h *host, with []prove.Layer) *process {
	t.Helper()
	var ends [2]int
	if err := p.sockets(func() (err error) {
		ends, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "ours"), os.NewFile(uintptr(ends[1]), "theirs")
	j := p.jail(t, h, with)
	j.Kept = nil
	if j.Calls != nil {
		j.Calls.OwnFilters = 0
	}
	top, err := j.Root.Folder(h.view)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), p.program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = theirs, theirs, theirs, h.view, []string{}
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	a := &process{cmd, ours, bufio.NewReader(ours)}
	_ = theirs.Close()
	if line, err := a.lines.ReadString('\n'); err != nil || line != ready+"\n" {
		t.Fatalf("with %v the attacker says %q, %v", with, line, err)
	}
	p.settle(t, j, cmd.Process.Pid, p.program, top, with)
	if err := top.Close(); err != nil {
		t.Fatal(err)
	}
	return a
}

// attack gives what the attacker says; a process that ends instead is denied.
func (a *process) attack(what attack, tree string, victim int) string {
	words := []string{what.do}
	for _, arg := range what.args {
		arg = strings.Replace(arg, treeWord, tree, 1)
		words = append(words, strings.ReplaceAll(arg, victimWord, strconv.Itoa(victim)))
	}
	_, err := a.conn.WriteString(strings.Join(words, "\t") + "\n")
	line, failed := a.lines.ReadString('\n')
	if err = errors.Join(err, failed); err != nil {
		return "it ended: " + err.Error()
	}
	return strings.TrimSuffix(line, "\n")
}

func (a *process) end() {
	if a == nil {
		return
	}
	_ = a.conn.Close()
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// TestFileServerWithoutOneLayer leaves out one part of the jail at a time, and wants every attack
// to be stopped still but those that the threat table lists for that part alone.
func TestFileServerWithoutOneLayer(t *testing.T) {
	p := newPlace(t)
	all := broken(t, p.dir)
	alone := map[prove.Layer][]string{
		prove.User:    {"trusted attribute"}, // a host's trusted attributes; servers keep them from their guest, too
		prove.Seccomp: {"user namespace"},
	}
	for _, l := range []prove.Layer{prove.User, prove.Seccomp, prove.Landlock} {
		with := slices.DeleteFunc(p.layers(), func(have prove.Layer) bool { return have == l })
		var through []string
		for i, said := range p.round(t, all, with, false) {
			if said != succeeded {
				continue
			}
			through = append(through, all[i].name)
			if !slices.Contains(alone[l], all[i].name) {
				t.Errorf("%s on %s succeeds without %s: name it in docs/threats.md, or add a layer", all[i].name, all[i].on, l)
			}
		}
		t.Logf("without %s these succeed: %q", l, through)
	}
}
