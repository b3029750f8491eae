// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/vmm"
)

func start(ctx context.Context, t *testing.T, scenario string) (*Process, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(ctx, least(vmm.Q35), Options{Binary: self, Starter: fake{scenario}, Dir: t.TempDir()})
	if err == nil {
		t.Cleanup(func() {
			if err := p.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return p, err
}

// hangLimit only catches hangs; no test asserts a time.
const hangLimit = time.Minute

// within bounds a call: one that is to be given up is so soon.
func within(t *testing.T, givenUp bool) (context.Context, context.CancelFunc) {
	t.Helper()
	limit := hangLimit
	if givenUp {
		limit = time.Second
	}
	return context.WithTimeout(t.Context(), limit)
}

func TestStartFails(t *testing.T) {
	for _, test := range []struct{ scenario, says string }{
		{"exits", "qemu: qemu: -machine: no such thing"},
		{"silent", "deadline exceeded"},
		{"garbage", "invalid character"},
		{"refuses", "no negotiation"},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			noNewFiles := keepFiles(t)
			ctx, cancel := within(t, test.scenario == "silent")
			defer cancel()
			began := time.Now()
			_, err := start(ctx, t, test.scenario)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Start = %v, want it to say %q", err, test.says)
			}
			if !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("Start = %v, want class %v", err, errdefs.ErrUnavailable)
			}
			if took := time.Since(began); took > hangLimit {
				t.Errorf("Start took %v", took)
			}
			noNewFiles()
		})
	}
}

func TestEndlessBanner(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := start(ctx, t, "endless banner"); err == nil {
		t.Error("Start = nil, want an error")
	}
}

func TestStartRefuses(t *testing.T) {
	m := least(vmm.Q35)
	withNIC := full(vmm.Q35)
	withNIC.Share, withNIC.Disks = nil, nil
	withShare := least(vmm.Q35)
	withShare.Share = &vmm.Share{Tag: "cloister"}
	withDisk := least(vmm.Q35)
	withDisk.Disks = []vmm.Disk{{Path: "/d"}}
	bad := least(vmm.Q35)
	bad.CPUs = -1
	for _, test := range []struct {
		name string
		m    vmm.Machine
		o    Options
		says string
	}{
		{"no starter", m, Options{Dir: "/"}, "no Starter"},
		{"no folder", m, Options{Starter: fake{"ok"}}, "no Dir"},
		{"no tap", withNIC, Options{Starter: fake{"ok"}, Dir: "/"}, "0 taps for 2"},
		{"no server", withShare, Options{Starter: fake{"ok"}, Dir: "/"}, "share"},
		{"server without share", m, Options{Starter: fake{"ok"}, Dir: "/", Share: os.Stdin}, "share"},
		{"no disk", withDisk, Options{Starter: fake{"ok"}, Dir: "/"}, "0 files for 1"},
		{"invalid machine", bad, Options{Starter: fake{"ok"}, Dir: "/"}, "CPUs"},
		{"no qemu", m, Options{Starter: fake{"ok"}, Dir: t.TempDir(), Binary: "/none/qemu"}, "install it"},
		{"no such folder", m, Options{Starter: fake{"ok"}, Dir: "/none"}, "connect qemu"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noNewFiles := keepFiles(t)
			if _, err := Start(t.Context(), test.m, test.o); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Start = %v, want it to say %q", err, test.says)
			}
			noNewFiles()
		})
	}
}

func TestContinue(t *testing.T) {
	for _, test := range []struct{ scenario, says string }{
		{"ok", ""},
		{"floods", ""},
		{"errs", "it will not run"},
		{"mute", "deadline exceeded"},
		{"babbles", "monitor is closed"},
		{"dies", "monitor is closed"},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			p, err := start(t.Context(), t, test.scenario)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := within(t, test.scenario == "mute")
			defer cancel()
			err = p.Continue(ctx)
			if test.says == "" {
				if err != nil {
					t.Errorf("Continue = %v, want nil", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Continue = %v, want it to say %q", err, test.says)
			}
		})
	}
}

// TestNoAnswerClosesMonitor checks that a late reply cannot be taken for the next
// command's.
func TestNoAnswerClosesMonitor(t *testing.T) {
	p, err := start(t.Context(), t, "mute")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Continue(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Continue = %v, want %v", err, context.DeadlineExceeded)
	}
	if err := p.SetLink(t.Context(), "eth0", true); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("SetLink after that = %v, want %v", err, errdefs.ErrUnavailable)
	}
}

func TestStopKillsUnresponsiveQEMU(t *testing.T) {
	p, err := start(t.Context(), t, "deaf")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil {
		t.Errorf("Err after Stop = %v, want nil", err)
	}
}

func TestErr(t *testing.T) {
	for _, test := range []struct {
		scenario string
		says     []string
	}{
		{"powers off", nil},
		{"dies", []string{"killed", "qemu: last words", "console: guest? console"}},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			p, err := start(t.Context(), t, test.scenario)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Err(); err != nil {
				t.Errorf("Err before Done = %v, want nil", err)
			}
			_ = p.Continue(t.Context())
			<-p.Done()
			err = p.Err()
			if len(test.says) == 0 && err != nil {
				t.Errorf("Err = %v, want nil", err)
			}
			for _, s := range test.says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("Err = %v, want it to say %q", err, s)
				}
			}
		})
	}
}

// TestNoFileLeaks checks what QEMU inherits, and that nothing stays open here.
func TestNoFileLeaks(t *testing.T) {
	noNewFiles := keepFiles(t)
	p, err := start(t.Context(), t, "ok")
	if err != nil {
		t.Fatal(err)
	}
	links, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var sockets int
	for _, l := range links {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.Pid(), l.Name()))
		if strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	// Output and error, QMP, agent, console, lifeline.
	if sockets != 6 {
		t.Errorf("QEMU inherits %d sockets, want 6", sockets)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = p.Agent().Close()
	noNewFiles()
}

// keepFiles gives a check that no more is open than now. What other tests have left may go
// meanwhile. It collects no garbage: a file that nobody has closed would go with it.
func keepFiles(t *testing.T) func() {
	t.Helper()
	before := openFiles(t)
	return func() {
		t.Helper()
		var left []string
		for end := time.Now().Add(hangLimit); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
			left = nil
			for file, n := range openFiles(t) {
				if n > before[file] {
					left = append(left, file)
				}
			}
			if left == nil {
				return
			}
		}
		t.Errorf("left open: %q", left)
	}
}

// openFiles gives how often the process has each of its files open; the runtime's own, for polling,
// come when they are needed.
func openFiles(t *testing.T) map[string]int {
	t.Helper()
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]int{}
	for _, e := range entries {
		// but the list itself
		if target, err := os.Readlink(filepath.Join(own, e.Name())); err == nil && !strings.HasPrefix(target, "anon_inode:[event") {
			files[target]++
		}
	}
	return files
}

// fakeStarter starts a fake QEMU, tells its pid and waits to be killed.
func fakeStarter() {
	self, err := os.Executable()
	if err != nil {
		os.Exit(2)
	}
	p, err := Start(context.Background(), least(vmm.Q35), Options{Binary: self, Starter: fake{"deaf"}, Dir: os.Getenv(starterEnv)})
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	fmt.Println(p.Pid())
	select {}
}

// TestLifeline kills a process that runs QEMU and wants QEMU gone.
func TestLifeline(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), starterEnv+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("starter says %q", line)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(hangLimit.Milliseconds()))
	if err != nil || n != 1 {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		t.Errorf("QEMU outlives the process that started it: poll = %d, %v", n, err)
	}
}

func TestDetectAccel(t *testing.T) {
	info := func() ([]byte, error) { return []byte("flags : vmx\n"), nil }
	accel, _, err := DetectAccel(vmm.AccelAuto, Host{CPUInfo: info, OpenKVM: func() error { return os.ErrPermission }})
	if accel != vmm.AccelTCG || err != nil {
		t.Errorf("DetectAccel without /dev/kvm = %q, %v, want tcg", accel, err)
	}
	if accel, warning, err := DetectAccel(vmm.AccelAuto, Host{}); err != nil || accel == "" {
		t.Errorf("DetectAccel here = %q, %q, %v", accel, warning, err)
	}
}

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/null", fifo, dir, filepath.Join(dir, "none"), "relative"} {
		if f, err := OpenDisk(vmm.Disk{Path: path, ReadOnly: true}); err == nil {
			t.Errorf("OpenDisk(%s) = nil, want an error", path)
			_ = f.Close()
		}
	}
}

func TestMemory(t *testing.T) {
	p, err := start(t.Context(), t, "obeys")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetMemory(t.Context(), 304); err != nil {
		t.Error(err)
	}
	if got, err := p.Memory(t.Context()); got != 304<<20 || err != nil {
		t.Errorf("Memory = %d, %v, want %d", got, err, 304<<20)
	}
}
