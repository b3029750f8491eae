// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/sys"

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
		{
			"permissive by name",
			Options{AllowPermissive: true},
			func(f *far) { f.write("selinux/enforce", "0") }, nil, "selinux, permissive",
		},
		{"not mounted", Options{Mode: ModeNone}, func(f *far) { remove(f, "selinux/enforce") }, errAny, ""},
		{
			"unreadable",
			Options{Mode: ModeNone},
			func(f *far) { remove(f, "selinux/enforce"); f.write("selinux/enforce/x", "") },
			errAny, "",
		},
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

// start starts cmd under label on a thread of its own, as sandbox/jail does.
func start(d *Driver, label labels.Label, cmd *exec.Cmd) error {
	return sys.OnThread(func() error {
		unset, err := d.SetExec(label)
		if err != nil {
			return err
		}
		defer unset()
		return cmd.Start()
	})
}

func TestSetExecIsClearedOnTheSameThread(t *testing.T) {
	f := newFar(t)
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := start(open(t, f), parse(t, guest), cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(f.calls) != 2 || f.calls[0].label != guest || f.calls[1].label != "" || f.calls[0].thread != f.calls[1].thread {
		t.Errorf("calls = %v, want the label set and cleared on one thread", f.calls)
	}
}

func TestSetExecRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *far, l *labels.Label)
		want   error
	}{
		{"no label", func(_ *far, l *labels.Label) { *l = labels.Label{} }, ErrInvalid},
		{"type not in policy", func(f *far, _ *labels.Label) { f.invalid["cloister_qemu_t"] = true }, ErrInvalid},
		{"label write fails", func(f *far, _ *labels.Label) { f.failExec = unix.EACCES }, unix.EACCES},
		{"turned permissive", func(f *far, _ *labels.Label) { f.write("selinux/enforce", "0") }, ErrPermissive},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFar(t)
			d, label := open(t, f), parse(t, guest)
			test.change(f, &label)
			cmd := exec.CommandContext(t.Context(), "/bin/true")
			if err := start(d, label, cmd); !errors.Is(err, test.want) {
				t.Errorf("SetExec = %v, want %v", err, test.want)
			}
			if cmd.Process != nil {
				t.Error("a process was started")
			}
		})
	}
	if _, err := (*Driver)(nil).SetExec(labels.Label{}); err == nil {
		t.Error("SetExec of no driver: no error")
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

func TestNoneTakesNoLabel(t *testing.T) {
	f := newFar(t)
	withoutSELinux(f)
	d, err := Open(Options{Mode: ModeNone, Host: f.host()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetExec(parse(t, guest)); err == nil {
		t.Error("the driver none accepted a label")
	}
	unset, err := d.SetExec(labels.Label{})
	if err != nil {
		t.Fatal(err)
	}
	unset()
	if len(f.calls) != 0 {
		t.Errorf("calls = %v, want none", f.calls)
	}
	f.write("selinux/enforce", "1")
	if _, err := d.SetExec(labels.Label{}); !errors.Is(err, ErrEnforcing) {
		t.Errorf("SetExec after enforcing began = %v, want %v", err, ErrEnforcing)
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
