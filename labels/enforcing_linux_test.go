// SPDX-License-Identifier: Apache-2.0

package labels_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/labels/relabel"
	"cloister/sys"
	"cloister/tests/testenv"
)

// enforcing is a sandbox's way through this room on a kernel that enforces, in the shim's domain.
// The lab runs it so; it needs the policy module.
type enforcing struct {
	driver   *lsm.Driver
	programs lsm.Programs
	dir      string
	chosen   labels.Chosen
	entry    mcs.Entry
	registry *mcs.Registry
}

func enforce(t *testing.T) *enforcing {
	t.Helper()
	testenv.NeedEnforcing(t)
	e := &enforcing{programs: lsm.Programs{QEMU: testenv.NeedQEMU(t), Virtiofsd: testenv.NeedVirtiofsd(t)}}
	var err error
	if e.driver, err = lsm.Open(lsm.Options{}); err != nil {
		t.Fatal(err)
	}
	if own := e.driver.OwnLabel(); own.Type != "cloister_shim_t" {
		testenv.Need(t, testenv.Lab, "runs as "+own.String())
	}
	if e.dir, err = os.MkdirTemp("/var/lib/cloister", "test-"); err != nil { //nolint:usetesting // the shim may write there
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(e.dir) })
	self, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	e.registry, err = mcs.Open(mcs.Options{
		Dir: filepath.Join(e.dir, "mcs"), Self: self, Alive: sys.Process.Alive,
		Scan: func(ctx context.Context) ([]labels.Process, error) {
			seen, err := e.driver.Host().Processes(ctx)
			if seen.Hidden > 0 {
				t.Errorf("the labels of %d processes cannot be read", seen.Hidden)
			}
			return seen.Processes, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	types, err := e.driver.ChooseTypes(labels.Candidates(false), e.programs, nil)
	if err != nil {
		t.Fatal(err)
	}
	if types.Name != "cloister" {
		t.Errorf("ChooseTypes = %s, want cloister", types.Name)
	}
	if e.entry, err = e.registry.Reserve(t.Context(), mcs.Request{Sandbox: "lab/a"}); err != nil {
		t.Fatal(err)
	}
	if e.chosen, err = labels.Choose(labels.Wish{}, e.driver.OwnLabel(), types, e.entry.Level); err != nil {
		t.Fatal(err)
	}
	return e
}

// log makes the file that a labelled program writes to.
func (e *enforcing) log(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := lsm.SetFileLabel(f, e.chosen.Run); err != nil {
		t.Fatal(err)
	}
	return f
}

// start starts cmd under label on a thread of its own, as sandbox/jail does.
func (e *enforcing) start(cmd *exec.Cmd, label labels.Label) error {
	return sys.OnThread(func() error {
		unset, err := e.driver.SetExec(label)
		if err != nil {
			return err
		}
		defer unset()
		return cmd.Start()
	})
}

func TestEnforcingStart(t *testing.T) {
	e := enforce(t)
	ours, theirs, err := e.driver.Socketpair(e.chosen.QEMU)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(ours.Close(), theirs.Close()) }()
	cmd := exec.CommandContext(t.Context(), e.programs.QEMU, "-S", "-nodefaults", "-no-user-config",
		"-display", "none", "-machine", "q35", "-accel", "tcg",
		"-m", "64", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	log := e.log(t)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	if err := e.start(cmd, e.chosen.QEMU); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	greeting := make([]byte, 1)
	if _, err := ours.Read(greeting); err != nil || greeting[0] != '{' {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("QEMU's greeting is %q, %v: %s", greeting, err, text)
	}
	proof, err := e.driver.Verify(cmd.Process.Pid, e.chosen.QEMU, e.programs.QEMU)
	if err != nil || proof.Threads < 2 {
		t.Errorf("Verify = %+v, %v, want QEMU's threads under %v", proof, err, e.chosen.QEMU)
	}
	other := e.chosen.QEMU.WithLevel(labels.Level{})
	if _, err := e.driver.Verify(cmd.Process.Pid, other, e.programs.QEMU); !errors.Is(err, lsm.ErrWrongLabel) {
		t.Errorf("Verify of another level = %v, want %v", err, lsm.ErrWrongLabel)
	}
	found, err := e.registry.LookAgain(t.Context(), e.entry.Level, func(int) bool { return false })
	if err != nil || !slices.ContainsFunc(found, func(p labels.Process) bool { return p.PID == cmd.Process.Pid }) {
		t.Errorf("LookAgain = %v, %v, want pid %d", found, err, cmd.Process.Pid)
	}
	if err := e.registry.Release(t.Context(), "lab/a", e.entry.Level); err != nil {
		t.Fatal(err)
	}
	if _, err := e.registry.Reserve(t.Context(), mcs.Request{Sandbox: "lab/b", Level: &e.entry.Level}); !errors.Is(err, mcs.ErrClash) {
		t.Errorf("Reserve of a level that runs = %v, want %v", err, mcs.ErrClash)
	}
}

func TestEnforcingRefuses(t *testing.T) {
	e := enforce(t)
	if _, err := lsm.Open(lsm.Options{Mode: lsm.ModeNone}); !errors.Is(err, lsm.ErrEnforcing) {
		t.Errorf("Open(none) = %v, want %v", err, lsm.ErrEnforcing)
	}
	if _, err := e.driver.ChooseTypes([]labels.Types{labels.Svirt(true)}, e.programs, nil); !errors.Is(err, lsm.ErrNoDomain) {
		t.Errorf("ChooseTypes of libvirt's = %v, want %v", err, lsm.ErrNoDomain)
	}
	log := e.log(t)
	for name, label := range map[string]labels.Label{
		"a type that is not there":    e.chosen.QEMU.WithType("no_such_t"),
		"a domain not to be entered":  e.chosen.QEMU.WithType("svirt_t"),
		"another program's domain":    e.chosen.Virtiofsd,
		"a sensitivity not in policy": e.chosen.QEMU.WithLevel(labels.Level{Sensitivity: 3}),
	} {
		cmd := exec.CommandContext(t.Context(), e.programs.QEMU, "-version")
		cmd.Stdout, cmd.Stderr = log, log
		if err := e.start(cmd, label); err == nil {
			t.Errorf("%s: Start = nil, want an error", name)
			_ = cmd.Wait()
		}
	}
}

func TestEnforcingRelabel(t *testing.T) {
	e := enforce(t)
	disk := filepath.Join(e.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(disk, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), disk)
	defer func() { _ = f.Close() }()
	before, err := lsm.FileLabel(f)
	if err != nil {
		t.Fatal(err)
	}
	self, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	journal, err := relabel.Open(relabel.Options{Dir: filepath.Join(e.dir, "relabel"), Self: self, Alive: sys.Process.Alive})
	if err != nil {
		t.Fatal(err)
	}
	item := relabel.Item{Path: disk, Label: e.chosen.Image, Remember: true}
	if _, err := journal.Apply(t.Context(), "lab/a", e.entry.Level, []relabel.Item{item}); err != nil {
		t.Fatal(err)
	}
	if got, err := lsm.FileLabel(f); err != nil || got != e.chosen.Image {
		t.Errorf("the disk is %v, %v, want %v", got, err, e.chosen.Image)
	}
	if _, err := journal.Restore(t.Context(), "lab/a"); err != nil {
		t.Fatal(err)
	}
	if got, err := lsm.FileLabel(f); err != nil || got != before {
		t.Errorf("the disk is %v, %v, want %v again", got, err, before)
	}
}
