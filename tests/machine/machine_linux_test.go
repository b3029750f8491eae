// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

func TestBoot(t *testing.T) {
	eachBoard(t, func(t *testing.T, board vmm.MachineType) {
		r := boot(t, describe(t, board), qemu.Options{})
		r.want("a b", "echo a b")
		r.want("0 1", "cpus")
		confined(t, r)
		r.end()
	})
}

// confined checks what QEMU holds and may do.
func confined(t *testing.T, r *running) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", r.Pid())
	status := read(t, proc+"status")
	for _, want := range []string{"\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("status of QEMU lacks %q", want)
		}
	}
	if limits := strings.Join(strings.Fields(read(t, proc+"limits")), " "); !strings.Contains(limits, "Max core file size 0 0 ") {
		t.Errorf("QEMU may dump core:\n%s", limits)
	}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		target, _ := os.Readlink(proc + "fd/" + f.Name())
		switch kind, _, _ := strings.Cut(target, ":"); {
		case kind == "socket", kind == "anon_inode", kind == "/memfd", target == "/dev/null":
		default:
			t.Errorf("QEMU holds %s open", target)
		}
	}
}

func TestPowerOff(t *testing.T) {
	t.Parallel()
	r := boot(t, describe(t, vmm.Q35), qemu.Options{})
	r.tell("poweroff")
	if err := r.ended(); err != nil {
		t.Errorf("Err after poweroff = %v, want nil", err)
	}
}

func TestGuestEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ verb, event string }{
		{"panic", "SHUTDOWN guest-reset"},
		{"reboot", "SHUTDOWN guest-reset"},
	} {
		t.Run(test.verb, func(t *testing.T) {
			t.Parallel()
			r := boot(t, describe(t, vmm.Q35), qemu.Options{})
			r.tell("%s", test.verb)
			var exit *qemu.ExitError
			if err := r.ended(); !errors.As(err, &exit) || exit.Event != test.event {
				t.Fatalf("Err = %v, want an ExitError with event %q", err, test.event)
			}
			t.Log(exit)
			if test.verb == "panic" && !strings.Contains(exit.Console, "Kernel panic") {
				t.Errorf("console tail %q does not tell of the panic", exit.Console)
			}
		})
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	r := boot(t, describe(t, vmm.Q35), qemu.Options{})
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Errorf("Err after Stop = %v, want nil", err)
	}
	if _, err := r.Agent().Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("agent port after Stop: %v, want its end", err)
	}
	if err := r.Continue(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Continue after Stop = %v, want %v", err, errdefs.ErrUnavailable)
	}
}

func TestStopsWhenFrozen(t *testing.T) {
	t.Parallel()
	r := boot(t, describe(t, vmm.Q35), qemu.Options{})
	if err := syscall.Kill(r.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	r := boot(t, describe(t, vmm.Q35), qemu.Options{})
	if err := syscall.Kill(r.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Err = %v, want it to tell of the kill", err)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	m := describe(t, vmm.Q35)
	m.Console.MaxBytes = limit
	log := create(t, filepath.Join(t.TempDir(), "console.log"))
	r := boot(t, m, qemu.Options{Console: log})
	r.want("spammed", "spam 2000")
	r.tell("poweroff")
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	text := read(t, log.Name())
	if len(text) > limit {
		t.Errorf("console.log has %d bytes, want at most %d", len(text), limit)
	}
	if !strings.Contains(text, "spam 1999 ") || !strings.Contains(text, "[log was full") {
		t.Errorf("console.log lacks its end or the note that it started over: ...%q", text[max(0, len(text)-300):])
	}
}

func TestDisks(t *testing.T) { eachBoard(t, testDisks) }

func testDisks(t *testing.T, board vmm.MachineType) {
	t.Helper()
	dir := t.TempDir()
	disk := func(lun int, readOnly bool, text string) (vmm.Disk, *os.File) {
		d := vmm.Disk{LUN: lun, Path: filepath.Join(dir, fmt.Sprintf("disk,%d", lun)), ReadOnly: readOnly}
		write(t, d.Path, text+strings.Repeat("\x00", 1<<20-len(text)))
		f, err := qemu.OpenDisk(d)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return d, f
	}
	m := describe(t, board)
	early, earlyFile := disk(3, true, "early")
	m.Disks = []vmm.Disk{early}
	r := boot(t, m, qemu.Options{Disks: []*os.File{earlyFile}})
	r.want("3 2048 1", "disks")
	r.want("early", "readdisk 3")

	late, lateFile := disk(200, false, "late")
	if err := r.AddDisk(t.Context(), late, lateFile); err != nil {
		t.Fatal(err)
	}
	if err := r.AddDisk(t.Context(), late, lateFile); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("AddDisk of a taken LUN = %v, want %v", err, errdefs.ErrAlreadyExists)
	}
	r.wantSoon("200 2048 0;3 2048 1", "disks")
	r.want("late", "readdisk 200")
	r.want("written", "writedisk 200 changed")
	if got := read(t, late.Path); !strings.HasPrefix(got, "changed\x00") {
		t.Errorf("the host reads %.10q, want what the guest wrote", got)
	}
	if got := r.ask("writedisk 3 changed"); !strings.HasPrefix(got, "error:") {
		t.Errorf("write to a read-only disk = %q, want an error", got)
	}
	if err := r.RemoveDisk(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	r.wantSoon("3 2048 1", "disks")
	if err := r.AddDisk(t.Context(), late, lateFile); err != nil {
		t.Errorf("AddDisk into a LUN that was freed: %v", err)
	}
	if err := r.RemoveDisk(t.Context(), 7); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("RemoveDisk of none = %v, want %v", err, errdefs.ErrNotFound)
	}
}

// TestBounds starts the smallest and the widest machine that Validate lets pass.
func TestBounds(t *testing.T) {
	t.Parallel()
	m := describe(t, vmm.Q35)
	m.MemoryMiB = vmm.MinMemoryMiB
	boot(t, m, qemu.Options{}).end()

	m.CPUs = vmm.MaxCPUs
	p, err := qemu.Start(t.Context(), m, qemu.Options{Binary: testenv.NeedQEMU(t), Starter: jailed(forQEMU), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
