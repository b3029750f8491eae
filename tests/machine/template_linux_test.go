// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// saved is a guest that was saved: what machines like its own start from.
type saved struct {
	machine vmm.Machine // FromTemplate
	state   []byte
	memory  *os.File // sealed
}

// save boots a machine, and keeps it as it is after its hello.
func save(t *testing.T, m vmm.Machine) *saved {
	t.Helper()
	fd, err := unix.MemfdCreate("template", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	memory := os.NewFile(uintptr(fd), "template")
	t.Cleanup(func() { _ = memory.Close() })
	if err := memory.Truncate(int64(m.MemoryMiB) << 20); err != nil {
		t.Fatal(err)
	}
	m.Origin = vmm.ForTemplate
	r := boot(t, m, qemu.Options{Memory: memory})
	var state bytes.Buffer
	if err := r.Save(t.Context(), &state); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	m.Origin = vmm.FromTemplate
	return &saved{m, state.Bytes(), memory}
}

// clones is how many machines share one template. CLONES says another number, for figures.
func clones(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CLONES")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCopyOnWrite has machines map one template's memory. Each keeps what it writes to itself, the
// template stays as it was, and pages that nobody has written are there once.
func TestCopyOnWrite(t *testing.T) {
	t.Parallel()
	s := save(t, describe(t, vmm.MicroVM))
	s.machine.CopyOnWrite = true
	before := digest(t, s.memory)
	var all []*running
	for i := range clones(t) {
		r := s.resume(t)
		r.want("held", "hold %d", i)
		all = append(all, r)
		t.Logf("%d machines: PSS of the first is %s", i+1, pss(t, all[0].Pid()))
	}
	for i, r := range all {
		r.want(fmt.Sprintf("%d %d", i, 1<<20), "held")
	}
	if after := digest(t, s.memory); after != before {
		t.Error("the template's memory was changed by a machine that started from it")
	}
	maps := read(t, fmt.Sprintf("/proc/%d/maps", all[0].Pid()))
	for line := range strings.Lines(maps) {
		if fields := strings.Fields(line); len(fields) > 5 && strings.HasPrefix(fields[5], "/memfd:template") && fields[1] != "rw-p" {
			t.Errorf("QEMU has mapped the template as %s, want a private mapping", fields[1])
		}
	}
}

// TestSealedTemplateIsNotShared: the kernel refuses a QEMU that would write to the template.
func TestSealedTemplateIsNotShared(t *testing.T) {
	t.Parallel()
	s := save(t, describe(t, vmm.MicroVM))
	if _, err := s.start(t); err == nil {
		t.Error("QEMU has mapped a sealed template shared")
	}
}

// TestBalloonLeavesTheTemplate: a guest that gives memory back makes no hole in the template that
// others have mapped.
func TestBalloonLeavesTheTemplate(t *testing.T) {
	t.Parallel()
	m := describe(t, vmm.MicroVM)
	m.Balloon = true
	s := save(t, m)
	s.machine.CopyOnWrite = true
	before := digest(t, s.memory)
	r := s.resume(t)
	const less = 32 // MiB
	if err := r.SetMemory(t.Context(), m.MemoryMiB-less); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(bootTimeout); ; {
		have, err := r.Memory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if have == int64(m.MemoryMiB-less)<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest has %d MiB, want %d", have>>20, m.MemoryMiB-less)
		}
	}
	r.want("held", "hold %d", 1)
	if after := digest(t, s.memory); after != before {
		t.Error("the balloon has changed the template's memory")
	}
}

func digest(t *testing.T, f *os.File) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<40)); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// pss is a process's share of the memory that it maps.
func pss(t *testing.T, pid int) string {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
		if text, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strings.TrimSpace(text)
		}
	}
	return "unknown"
}

// start starts a machine from what was saved, which has loaded nothing yet.
func (s *saved) start(t *testing.T) (*qemu.Process, error) {
	t.Helper()
	p, err := qemu.Start(t.Context(), s.machine, qemu.Options{
		Binary: testenv.NeedQEMU(t), Starter: jailed(forQEMU), Dir: t.TempDir(), Memory: s.memory,
	})
	if err == nil {
		t.Cleanup(func() {
			if err := p.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return p, err
}

// resume starts a machine from what was saved. Its guest says no hello a second time.
func (s *saved) resume(t *testing.T) *running {
	t.Helper()
	p, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(t.Context(), bytes.NewReader(s.state)); err != nil {
		t.Fatal(err)
	}
	if err := p.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &running{Process: p, t: t, lines: bufio.NewReader(p.Agent())}
}

// TestStateOfMoreCPUsIsRefused is why a template has its sandboxes' number of CPUs: QEMU does not
// load the state of a CPU that the machine lacks.
func TestStateOfMoreCPUsIsRefused(t *testing.T) {
	t.Parallel()
	m := describe(t, vmm.MicroVM)
	m.CPUs = 3
	s := save(t, m)
	s.machine.CopyOnWrite, s.machine.CPUs = true, 2
	p, err := s.start(t)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Load(t.Context(), bytes.NewReader(s.state))
	if err == nil {
		t.Error("QEMU has loaded the state of three CPUs into a machine with two")
	}
	t.Log(err)
}

// TestMemoryIsTakenFromTheGuest: the guest's kernel has only what SetMemory leaves it.
func TestMemoryIsTakenFromTheGuest(t *testing.T) {
	t.Parallel()
	m := describe(t, vmm.MicroVM)
	m.Balloon, m.MemoryMiB = true, 384
	r := boot(t, m, qemu.Options{})
	before := total(t, r)
	const less = 80 // MiB
	began, used := time.Now(), cpuTime(t, r.Pid())
	if err := r.SetMemory(t.Context(), m.MemoryMiB-less); err != nil {
		t.Fatal(err)
	}
	for deadline := began.Add(bootTimeout); ; {
		have, err := r.Memory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if have == int64(m.MemoryMiB-less)<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest has %d MiB, want %d", have>>20, m.MemoryMiB-less)
		}
	}
	t.Logf("%d MiB in %s, %s of processor time", less, time.Since(began), cpuTime(t, r.Pid())-used)
	if after := total(t, r); before-after != less<<10 {
		t.Errorf("MemTotal was %d KiB and is %d, want %d MiB less", before, after, less)
	}
}

// total is what the guest's kernel has, in KiB.
func total(t *testing.T, r *running) (kib int) {
	t.Helper()
	text := r.ask("mem")
	if _, err := fmt.Sscanf(text, "MemTotal: %d kB", &kib); err != nil {
		t.Fatalf("mem = %q: %v", text, err)
	}
	return kib
}
