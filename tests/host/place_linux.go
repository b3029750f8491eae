// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// Place is a set of namespaces held by one process.
type Place struct {
	// Dir is a folder on disk that is the place's own and is taken away with it.
	Dir    string
	holder *exec.Cmd
	stdin  io.Closer
}

// first is what process 1 of a place does; bash, because it reaps what is left to it. It ends when
// its stdin does. Mounts are private against the host and shared within the place, since shims are
// in namespaces that receive the engine's mounts. /run is the place's own, because daemons have
// fixed names there. Forwarding is on, as CNI's bridge and Docker expect it.
const first = `set -e
mount --make-rprivate /
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mkdir -p /run/lock
mount --bind "$1" "$1"
mount --bind "$1/hosts" /etc/hosts
mount --make-rshared /
ip link set lo up
for f in ipv4/ip_forward ipv6/conf/all/forwarding; do [ ! -e /proc/sys/net/$f ] || echo 1 >/proc/sys/net/$f; done
echo ready
read -r _ || true`

// New makes a place that lasts as long as the test. It needs root.
func New(t testing.TB) *Place {
	t.Helper()
	testenv.NeedRoot(t)
	for _, tool := range []string{"bash", "ip", "mount", "nsenter"} {
		testenv.NeedTool(t, tool)
	}
	// Not t.TempDir: its names are too long for sockets, and it gives up on what a dying mount
	// still holds.
	dir, err := os.MkdirTemp("", "clo-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	p := &Place{Dir: dir}
	t.Cleanup(func() { p.remove(t) })
	if err := os.Chmod(dir, 0o711); err != nil { // QEMU reads a guest image here as a user of its own
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatalf("private namespaces: %v", err)
	}
	return p
}

func (p *Place) start() error {
	// Not bound to a context: it lives until its stdin is closed.
	cmd := exec.Command("bash", "-c", first, "place", p.Dir) //nolint:noctx // see above
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setsid:     true,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	p.holder, p.stdin = cmd, stdin
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		return errors.Join(err, stdin.Close(), cmd.Wait(), errors.New(stderr.String()))
	}
	return nil
}

// remove ends the place, then takes its folder away.
func (p *Place) remove(t testing.TB) {
	t.Helper()
	if p.holder != nil && p.holder.ProcessState == nil {
		p.end(t)
	}
	if err := os.RemoveAll(p.Dir); err != nil {
		t.Errorf("the place's folder: %v", err)
	}
}

// end ends every process of the place: process 1 dies, and the kernel kills all others of its pid
// namespace before the wait returns.
func (p *Place) end(t testing.TB) {
	t.Helper()
	if err := p.holder.Process.Kill(); err != nil {
		t.Errorf("end the place: %v", err)
	}
	_ = p.holder.Wait() // says that it was killed
	_ = p.stdin.Close()
}

// Reboot ends all that runs in the place and makes its namespaces anew: what was mounted, the
// network and /run are gone, and Dir stays. The kernel is the same, and so are the host's cgroups.
func (p *Place) Reboot(t testing.TB) {
	t.Helper()
	p.end(t)
	if err := p.start(); err != nil {
		t.Fatalf("private namespaces: %v", err)
	}
}

// PID is the holder's pid as the world outside of the place sees it.
func (p *Place) PID() int { return p.holder.Process.Pid }

// Command prepares a program in the place. What ends ctx kills it.
func (p *Place) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(p.PID()), "-m", "-n", "-p", "-i", "-u", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Dir = "/"
	// nsenter waits for its child and passes no signals on: take the whole group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// For an output that a process outside of the group still holds open.
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Run runs a program in the place to its end and gives what it wrote to both outputs. A failure
// fails the test.
func (p *Place) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := p.Command(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Kill ends processes and waits until they are gone with all that they held. One may have ended
// meanwhile, because of another.
func (p *Place) Kill(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		folder := p.Path(fmt.Sprintf("/proc/%d", pid))
		there := func() string {
			if _, err := os.Stat(folder); err != nil {
				return ""
			}
			return fmt.Sprintf("process %d is still there", pid)
		}
		if out, err := p.Command(t.Context(), "kill", "-KILL", strconv.Itoa(pid)).CombinedOutput(); err != nil && there() != "" {
			t.Fatalf("kill %d: %v: %s", pid, err, out)
		}
		if left := Await(Patience, there); left != "" {
			t.Fatal(left)
		}
	}
}

// AddHosts puts lines into the place's /etc/hosts.
func (p *Place) AddHosts(t testing.TB, lines string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(p.Dir, "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(lines)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// Listen listens for TCP in the place's network namespace.
func (p *Place) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := inside(p.PID(), func() (net.Listener, error) { return (&net.ListenConfig{}).Listen(t.Context(), "tcp", address) })
	if err != nil {
		t.Fatalf("listen on %s in the place: %v", address, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// ListenPacket listens for UDP in the place's network namespace.
func (p *Place) ListenPacket(t testing.TB, address string) net.PacketConn {
	t.Helper()
	c, err := inside(p.PID(), func() (net.PacketConn, error) { return (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address) })
	if err != nil {
		t.Fatalf("listen on %s in the place: %v", address, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Path gives what name, a path in the place, is called outside of it.
func (p *Place) Path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.PID()), "root", name)
}

// Processes gives the command line of every process in the place but its first, by its pid in the
// place.
func (p *Place) Processes(t testing.TB) map[int]string {
	t.Helper()
	entries, err := os.ReadDir(p.Path("/proc"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == 1 {
			continue
		}
		line, err := os.ReadFile(p.Path("/proc/" + entry.Name() + "/cmdline"))
		if err != nil || len(line) == 0 {
			continue // gone meanwhile, or a zombie
		}
		found[pid] = strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
	}
	return found
}

// Relay listens outside of the place and connects whoever comes to address inside of it; it gives
// where it listens.
func (p *Place) Relay(t testing.TB, address string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go p.relay(t.Context(), l, address)
	return l.Addr().String()
}

func (p *Place) relay(ctx context.Context, l net.Listener, address string) {
	for {
		near, err := l.Accept()
		if err != nil {
			return // closed
		}
		far, err := p.Dial(ctx, address)
		if err != nil {
			_ = near.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() {
				_, _ = io.Copy(way[0], way[1])
				_ = way[0].(*net.TCPConn).CloseWrite()
			}()
		}
	}
}

// Dial connects to an address inside the place.
func (p *Place) Dial(ctx context.Context, address string) (net.Conn, error) {
	return inside(p.PID(), func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) })
}

// inside runs f on a thread in the network namespace of a process. The thread ends with the
// goroutine.
func inside[T any](pid int, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread()
		var r result
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err == nil {
			r.value, err = f()
		}
		r.err = err
		results <- r
	}()
	r := <-results
	return r.value, r.err
}
