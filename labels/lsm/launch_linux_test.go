// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"cloister/labels"
	"cloister/tests/testenv"

	"golang.org/x/sys/unix"
)

const guest = "system_u:system_r:cloister_qemu_t:s0:c1,c2"

func TestOpen(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		change  func(f *far)
		wantErr error
		want    string
	}{
		{"default is selinux", Options{}, nil, nil, "selinux, enforcing"},
		{"none while enforcing", Options{Mode: ModeNone}, nil, ErrEnforcing, ""},
		{"none while permissive", Options{Mode: ModeNone}, func(f *far) { f.write("selinux/enforce", "0") }, nil, "none: "},
		{"none without SELinux", Options{Mode: ModeNone}, withoutSELinux, nil, "none: "},
		{"selinux without SELinux", Options{Mode: ModeSELinux}, withoutSELinux, ErrDisabled, ""},
		{"selinux while permissive", Options{}, func(f *far) { f.write("selinux/enforce", "0") }, ErrPermissive, ""},
		{"permissive by name", Options{AllowPermissive: true}, func(f *far) { f.write("selinux/enforce", "0") }, nil, "selinux, permissive"},
		{"not mounted", Options{Mode: ModeNone}, func(f *far) { remove(f, "selinux/enforce") }, errAny, ""},
		{"unreadable", Options{Mode: ModeNone}, func(f *far) { remove(f, "selinux/enforce"); f.write("selinux/enforce/x", "") }, errAny, ""},
		{"no policy", Options{}, func(f *far) { f.write("proc/self/attr/current", "kernel") }, errAny, ""},
		{"unknown", Options{Mode: "smack"}, nil, errAny, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			if test.change != nil {
				test.change(f)
			}
			test.options.Host = f.host()
			d, err := Open(test.options)
			if test.wantErr != nil {
				if err == nil || (!errors.Is(test.wantErr, errAny) && !errors.Is(err, test.wantErr)) {
					t.Fatalf("Open = %v, want %v", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatalf("Open = %v", err)
			}
			if !strings.HasPrefix(d.Strength(), test.want) {
				t.Errorf("Strength = %q, want %q", d.Strength(), test.want)
			}
		})
	}
}

var errAny = errors.New("any error")

func remove(f *far, path string) {
	if err := os.RemoveAll(filepath.Join(f.root, path)); err != nil {
		f.t.Fatal(err)
	}
}

func withoutSELinux(f *far) {
	remove(f, "selinux/enforce")
	f.write("proc/filesystems", "nodev\tproc\n")
}

func TestLaunchSetsExecLabelOnOneThread(t *testing.T) {
	f := newFar(t)
	d := open(t, f)
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := (Launch{Driver: d, Label: parse(t, guest)}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(f.calls) != 2 || f.calls[0].label != guest || f.calls[1].label != "" || f.calls[0].thread != f.calls[1].thread {
		t.Errorf("calls = %v, want the label set and cleared on one thread", f.calls)
	}
	if f.calls[0].thread == os.Getpid() {
		t.Error("the label was set on the process's first thread")
	}
}

func TestLaunchRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *far, l *Launch, c *exec.Cmd)
		want   error
	}{
		{"no driver", func(_ *far, l *Launch, _ *exec.Cmd) { l.Driver = nil }, errAny},
		{"no label", func(_ *far, l *Launch, _ *exec.Cmd) { l.Label = labels.Label{} }, ErrInvalid},
		{"type not in policy", func(f *far, _ *Launch, _ *exec.Cmd) { f.invalid["cloister_qemu_t"] = true }, ErrInvalid},
		{"label write fails", func(f *far, _ *Launch, _ *exec.Cmd) { f.failExec = unix.EACCES }, unix.EACCES},
		{"turned permissive", func(f *far, _ *Launch, _ *exec.Cmd) { f.write("selinux/enforce", "0") }, ErrPermissive},
		{"a pipe", func(_ *far, _ *Launch, c *exec.Cmd) { c.Stderr = &bytes.Buffer{} }, errAny},
		{"no program", func(_ *far, _ *Launch, c *exec.Cmd) { c.Path = "/nonexistent" }, fs.ErrNotExist},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			launch := Launch{Driver: open(t, f), Label: parse(t, guest)}
			cmd := exec.CommandContext(t.Context(), "/bin/true")
			test.change(f, &launch, cmd)
			err := launch.Start(cmd)
			if err == nil || (!errors.Is(test.want, errAny) && !errors.Is(err, test.want)) {
				t.Errorf("Start = %v, want %v", err, test.want)
			}
			if cmd.Process != nil {
				t.Error("a process was started")
			}
		})
	}
}

func TestExecTakesTheLabelBack(t *testing.T) {
	f := newFar(t)
	err := open(t, f).Exec(parse(t, guest), "/nonexistent", []string{"x"}, nil)
	if !errors.Is(err, fs.ErrNotExist) || len(f.calls) != 2 || f.calls[1].label != "" || f.calls[0].thread != f.calls[1].thread {
		t.Errorf("Exec = %v after %v, want %v with the label set and cleared", err, f.calls, fs.ErrNotExist)
	}
	f.failExec = unix.EACCES
	if err := open(t, f).Exec(parse(t, guest), "/bin/true", []string{"true"}, nil); !errors.Is(err, unix.EACCES) {
		t.Errorf("Exec = %v, want EACCES", err)
	}
}

func TestNone(t *testing.T) {
	if enforcing, err := (Host{}).Enforcing(); err != nil || enforcing {
		t.Skip("this host enforces")
	}
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := (None{}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	f := newFar(t)
	withoutSELinux(f)
	d, err := Open(Options{Mode: ModeNone, Host: f.host()})
	if err != nil {
		t.Fatal(err)
	}
	if err := (Launch{Driver: d, Label: parse(t, guest)}).Start(exec.CommandContext(t.Context(), "/bin/true")); err == nil {
		t.Error("the driver none took a label")
	}
	f.write("selinux/enforce", "1")
	if err := (Launch{Driver: d}).Start(exec.CommandContext(t.Context(), "/bin/true")); !errors.Is(err, ErrEnforcing) {
		t.Errorf("Start after enforcing began = %v, want %v", err, ErrEnforcing)
	}
}

// TestPdeathsig shows that the starting thread outlives the child: a child killed by its end would answer nothing.
func TestPdeathsig(t *testing.T) {
	theirs, ours := pipe(t)
	answer, echo := pipe(t)
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	cmd.Stdin, cmd.Stdout = theirs, echo
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := (Launch{Driver: none(t)}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	for range 100 { // churn threads, so that an ended one would be gone
		onOwnThread(func() {})
		runtime.Gosched()
	}
	if _, err := ours.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(answer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("Wait = %v, want a clean end", err)
	}
}

func TestKeepCapabilities(t *testing.T) {
	testenv.NeedRoot(t)
	setpriv := testenv.NeedTool(t, "setpriv")
	for _, keep := range []bool{true, false} {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), setpriv, "--dump")
		cmd.Stdout = w
		if err := (Launch{Driver: none(t), KeepCapabilities: keep}).Start(cmd); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), "no_setuid_fixup"); got != keep {
			t.Errorf("KeepCapabilities %t: %s", keep, out)
		}
	}
}

func TestNetNS(t *testing.T) {
	testenv.NeedRoot(t)
	other := make(chan *os.File)
	onOwnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			close(other)
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			close(other)
			return
		}
		other <- f
	})
	space := <-other
	if space == nil {
		testenv.Need(t, testenv.Root, "no network namespace can be made")
	}
	defer func() { _ = space.Close() }()
	before, _ := os.Readlink("/proc/self/ns/net")
	answer, out := pipe(t)
	cmd := exec.CommandContext(t.Context(), "/bin/readlink", "/proc/self/ns/net")
	cmd.Stdout = out
	if err := (Launch{Driver: none(t), NetNS: space}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	got, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want, _ := os.Readlink("/proc/self/fd/" + itoa(int(space.Fd())))
	if strings.TrimSpace(string(got)) != want || want == before {
		t.Errorf("child's namespace is %s, want %s, ours is %s", got, want, before)
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("our namespace became %s, was %s", after, before)
	}
}

func TestSocketpair(t *testing.T) {
	f := newFar(t)
	d := open(t, f)
	ours, theirs, err := d.Socketpair(parse(t, guest))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	defer func() { _ = theirs.Close() }()
	if len(f.calls) != 2 || f.calls[0].thread != f.calls[1].thread {
		t.Errorf("calls = %v, want set and cleared on one thread", f.calls)
	}
	if err := d.CheckPeer(ours, parse(t, "system_u:system_r:cloister_qemu_t:s0:c1,c3")); !errors.Is(err, ErrWrongLabel) {
		t.Errorf("CheckPeer = %v, want %v", err, ErrWrongLabel)
	}
	f.failSock = unix.EACCES
	if a, _, err := d.Socketpair(parse(t, guest)); !errors.Is(err, unix.EACCES) || a != nil {
		t.Errorf("Socketpair = %v, %v, want EACCES", a, err)
	}
}

func open(t *testing.T, f *far) *Driver {
	t.Helper()
	d, err := Open(Options{Host: f.host()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func none(t *testing.T) *Driver {
	t.Helper()
	f := newFar(t)
	withoutSELinux(f)
	d, err := Open(Options{Mode: ModeNone, Host: f.host()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(r.Close(), w.Close()) })
	return r, w
}
