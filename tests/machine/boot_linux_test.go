// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"cloister/sandbox/jail"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// bootTimeout is generous: machines are emulated here, on shared processors.
const bootTimeout = 2 * time.Minute

// jailed starts commands as a sandbox does, without a label; in no jail where that needs root.
func jailed(of func(jail.Config) jail.Jail) jail.Jail {
	if os.Geteuid() != 0 {
		return jail.Jail{}
	}
	return of(jail.Config{})
}

// forQEMU is QEMU's jail, with the user of some sandbox.
func forQEMU(c jail.Config) jail.Jail {
	owner, err := c.Owner(os.Getpid()%jail.Ranks, false)
	if err != nil {
		panic(err)
	}
	return jail.ForQEMU(c, owner)
}

// passable lets all users pass the folders of a test, of which QEMU is one.
func passable(t *testing.T, dir string) {
	t.Helper()
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// guestImage returns a kernel and an initial image that has the test's program as
// process 1. Kernels with modules take them from the folder TEST_MODULES, in the
// order of its modules.txt. TEST_KERNEL, TEST_MODULES and TEST_CMDLINE, more kernel
// parameters, are for trying things out.
func guestImage(t *testing.T) (kernel, initrd string) {
	t.Helper()
	kernel = os.Getenv("TEST_KERNEL")
	if kernel == "" {
		image := testenv.NeedGuest(t)
		if filepath.Base(image) != "small" {
			t.Skip("needs a kernel with everything built in: the test's initial image has no modules")
		}
		kernel = filepath.Join(image, "kernel")
	}
	// A comma and a blank, to see that QEMU takes paths as they are.
	dir := filepath.Join(t.TempDir(), "a, b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "init")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "cloister/tests/machine/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build guest: %v\n%s", err, out)
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.Directory("proc", 0o755), cpio.Directory("sys", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", read(t, program), 0o755),
	}
	records = append(records, modules(t)...)
	var image bytes.Buffer
	if err := cpio.WriteRecords(cpio.Newc.Writer(&image), records); err != nil {
		t.Fatal(err)
	}
	initrd = filepath.Join(dir, "initrd")
	write(t, initrd, image.String())
	passable(t, dir)
	if err := os.Chmod(initrd, 0o644); err != nil {
		t.Fatal(err)
	}
	return kernel, initrd
}

func modules(t *testing.T) []cpio.Record {
	t.Helper()
	dir := os.Getenv("TEST_MODULES")
	if dir == "" {
		return nil
	}
	list := read(t, filepath.Join(dir, "modules.txt"))
	records := []cpio.Record{cpio.StaticFile("modules.txt", list, 0o644)}
	for name := range strings.FieldsSeq(list) {
		records = append(records, cpio.StaticFile(strings.TrimPrefix(name, "/"), read(t, filepath.Join(dir, name)), 0o644))
	}
	return records
}

// describe is the least machine of a type.
func describe(t *testing.T, board vmm.MachineType) vmm.Machine {
	t.Helper()
	kernel, initrd := guestImage(t)
	return vmm.Machine{
		Name: "test", Type: board, Accel: vmm.AccelTCG, MemoryMiB: 256, Kernel: kernel, Initrd: initrd,
		Cmdline: slices.Concat([]string{"console=ttyS0", "quiet", "panic=-1"}, board.KernelParameters(),
			qemu.NewTSC().Cmdline(t.Context(), vmm.AccelTCG), strings.Fields(os.Getenv("TEST_CMDLINE"))),
	}
}

// eachBoard runs a test on every board.
func eachBoard(t *testing.T, test func(t *testing.T, board vmm.MachineType)) {
	t.Helper()
	t.Parallel()
	for _, board := range []vmm.MachineType{vmm.Q35, vmm.MicroVM} {
		t.Run(string(board), func(t *testing.T) {
			t.Parallel()
			test(t, board)
		})
	}
}

// running is a machine whose guest has said hello.
type running struct {
	*qemu.Process
	t     *testing.T
	lines *bufio.Reader
	log   string
	hello string
	took  time.Duration
}

// boot starts a machine and waits for its guest's hello.
func boot(t *testing.T, m vmm.Machine, o qemu.Options) *running {
	t.Helper()
	o.Binary, o.Starter, o.Dir = testenv.NeedQEMU(t), jailed(forQEMU), t.TempDir()
	if o.Log == nil {
		o.Log = create(t, filepath.Join(o.Dir, "qemu.log"))
	}
	log := o.Log.Name()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	p, err := qemu.Start(ctx, m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if b, _ := os.ReadFile(log); len(b) != 0 {
			t.Logf("qemu.log: %s", b[max(0, len(b)-4096):])
		}
		if t.Failed() {
			t.Logf("console: %s", p.ConsoleTail())
		}
	})
	up := time.Since(began)
	if err := p.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	r := &running{Process: p, t: t, lines: bufio.NewReader(p.Agent()), log: log}
	r.hello = r.line()
	r.took = time.Since(began)
	t.Logf("%s: qemu up in %v, hello after %v, %v of processor time: %s", m.Type, up.Round(time.Millisecond),
		r.took.Round(time.Millisecond), cpuTime(t, p.Pid()), r.hello)
	return r
}

// cpuTime is what a process has used so far: what a start costs, however busy the
// host.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat := read(t, fmt.Sprintf("/proc/%d/stat", pid))
	// The name, second, may have blanks; utime and stime are fields 14 and 15, in
	// hundredths (proc(5)).
	fields := strings.Fields(stat[strings.LastIndex(stat, ")"):])
	var user, system int64
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (r *running) line() string {
	r.t.Helper()
	if err := r.Agent().SetReadDeadline(time.Now().Add(bootTimeout)); err != nil {
		r.t.Fatal(err)
	}
	line, err := r.lines.ReadString('\n')
	if err != nil {
		r.t.Fatalf("guest is silent: %v; %v; console:\n%s", err, r.Err(), r.ConsoleTail())
	}
	return strings.TrimSuffix(line, "\n")
}

// ask has the guest do something and returns its answer.
func (r *running) ask(format string, args ...any) string {
	r.t.Helper()
	r.tell(format, args...)
	return r.line()
}

func (r *running) tell(format string, args ...any) {
	r.t.Helper()
	if _, err := fmt.Fprintf(r.Agent(), format+"\n", args...); err != nil {
		r.t.Fatal(err)
	}
}

// want has the guest do something that must be answered so.
func (r *running) want(want, format string, args ...any) {
	r.t.Helper()
	if got := r.ask(format, args...); got != want {
		r.t.Errorf("%s = %q, want %q", fmt.Sprintf(format, args...), got, want)
	}
}

// wantSoon has the guest do something until it is answered so.
func (r *running) wantSoon(want, verb string) {
	r.t.Helper()
	deadline := time.Now().Add(bootTimeout)
	for {
		got := r.ask("%s", verb)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s = %q, want %q", verb, got, want)
		}
	}
}

// end has the guest end the machine in order.
func (r *running) end() {
	r.t.Helper()
	r.ExpectExit()
	r.tell("reboot")
	if err := r.ended(); err != nil {
		r.t.Errorf("Err after an end that was asked for = %v, want nil", err)
	}
}

// ended waits for the machine's end.
func (r *running) ended() error {
	r.t.Helper()
	select {
	case <-r.Done():
		return r.Err()
	case <-time.After(bootTimeout):
		r.t.Fatal("the machine does not end")
		return nil
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
