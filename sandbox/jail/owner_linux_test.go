// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

func TestOwnerRefusesIDsOfOthers(t *testing.T) {
	tests := []struct {
		name, file, text string
		clash            bool
	}{
		{"root", "passwd", "root:x:0:0:root:/root:/bin/bash\n", false},
		{"first id", "passwd", "one:x:1879048192:100::/:/bin/sh\n", true},
		{"last id", "group", "one:x:1879571968:\n", true},
		{"one after the last", "passwd", "one:x:1879571969:100::/:/bin/sh\n", false},
		{"subordinate ids before", "subuid", "user:100000:65536\n", false},
		{"subordinate ids that reach in", "subuid", "user:1879000000:65536\n", true},
		{"subordinate ids that end before", "subgid", "user:1879048191:1\n", false},
		{"subordinate ids around", "subgid", "user:1:4000000000\n", true},
		{"not lines of the format", "subuid", "#\n\nuser:x\nuser:1879048192:none\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.WriteFile(filepath.Join(etc, tt.file), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := (Config{}).CheckHost(etc); (err != nil) != tt.clash || err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("CheckHost = %v, want a clash: %t", err, tt.clash)
			}
		})
	}
}

func TestOwnerOfARank(t *testing.T) {
	last, err := Config{UIDBase: 100000}.Owner(Ranks-1, false)
	if err != nil || last.ID != 100000+Ranks-1 {
		t.Errorf("Owner of the last rank = %+v, %v", last, err)
	}
	for _, rank := range []int{-1, Ranks} {
		if o, err := (Config{}).Owner(rank, false); err == nil {
			t.Errorf("Owner(%d) = %+v, want an error", rank, o)
		}
	}
	if o, err := (Config{Disable: []Part{Users}}).Owner(1, true); err != nil || o.ID != 0 {
		t.Errorf("Owner without the part users = %+v, %v", o, err)
	}
	for _, base := range []uint32{1000, 1<<31 - 1} {
		if err := (Config{UIDBase: base}).Check(); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("uid_base = %d: %v, want it refused", base, err)
		}
	}
}

func TestMayOpenAsksAsTheOwner(t *testing.T) {
	testenv.NeedRoot(t)
	o := Owner{ID: defaultBase + 7, Groups: []uint32{defaultBase + 8}}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		mode  os.FileMode
		gid   int
		write bool
		ok    bool
	}{
		{"others", 0o604, 0, false, true},
		{"root alone", 0o600, 0, false, false},
		{"root's group", 0o640, 0, false, false},
		{"a group of the owner's", 0o640, defaultBase + 8, false, true},
		{"to write", 0o604, 0, true, false},
	} {
		path := filepath.Join(dir, tt.name)
		err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, tt.mode), os.Chown(path, 0, tt.gid))
		if err != nil {
			t.Fatal(err)
		}
		mode := uint32(unix.R_OK)
		if tt.write {
			mode = unix.W_OK
		}
		if err := o.MayOpen(path, mode); (err == nil) != tt.ok {
			t.Errorf("%s: MayOpen = %v, want allowed: %t", tt.name, err, tt.ok)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Errorf("this process has lost rights: %v", err)
	}
}

func TestOwnerIsReadBack(t *testing.T) {
	testenv.NeedRoot(t)
	j := ForQEMU(Config{Disable: []Part{Seccomp}}, Owner{ID: defaultBase + 7, Groups: []uint32{5, 6}})
	start := func(j Jail) int {
		r, _ := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"))
		cmd.Stdin, cmd.Dir = r, "/"
		if err := j.Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd.Process.Pid
	}
	if err := j.Verify(start(j)); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Owner){
		"another user":   func(o *Owner) { o.ID++ },
		"a group more":   func(o *Owner) { o.Groups = []uint32{5, 6, 7} },
		"other groups":   func(o *Owner) { o.Groups = nil },
		"root and wheel": func(o *Owner) { o.ID = 0 },
	} {
		other := j
		change(&other.Owner)
		if err := j.Verify(start(other)); !errors.Is(err, ErrEscaped) {
			t.Errorf("%s: Verify = %v, want %v", name, err, ErrEscaped)
		}
	}
	// Files of root are not the owner's.
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Owner{{}, j.Owner} {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"), secret)
		cmd.Stdout = w
		if err := (Jail{Owner: o}).Start(cmd); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, ended(cmd.Wait())); err != nil {
			t.Fatal(err)
		}
		if got := string(out) == "x"; got != (o.ID == 0) {
			t.Errorf("uid %d has read a file of root's: %t", o.ID, got)
		}
	}
}
