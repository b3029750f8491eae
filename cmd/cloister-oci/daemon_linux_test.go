// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// TestShimOfOthersIsRefused has root find a shim in PATH that another user owns.
func TestShimOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, shimProgram)
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if got, err := shimPath(shimProgram); err != nil || got != name {
		t.Errorf("shimPath = %q, %v, want root's %s", got, err, name)
	}
	if err := os.Chown(name, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := shimPath(shimProgram); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("shimPath = %q, %v, want a refusal of another's", got, err)
	}
}

func TestDaemonByName(t *testing.T) {
	for called, want := range map[string]string{
		"/usr/bin/cloister-oci": shimProgram, "cloister-oci": shimProgram, "/proc/self/exe": shimProgram,
		"/usr/bin/cloister-oci-process": processShim, "cloister-oci-process": processShim,
	} {
		if got := daemonName(called); got != want {
			t.Errorf("daemonName(%q) = %q, want %q", called, got, want)
		}
	}
}

// TestOneNameForASandbox: a container joins only a sandbox whose containers were made by the same
// name of the program.
func TestOneNameForASandbox(t *testing.T) {
	o := &options{root: t.TempDir()}
	for _, r := range []struct{ id, daemon, address string }{
		{"machine", shimProgram, "unix:///run/a"},
		{"plain", processShim, "unix:///run/b"},
		{"earlier", "", "unix:///run/c"}, // of a version that had one name
		{"made", processShim, ""},        // has no daemon yet
	} {
		d, err := o.container(r.id)
		if err == nil {
			err = os.MkdirAll(d.bundle(), 0o755)
		}
		if err == nil {
			err = d.save(&record{ID: r.id, Daemon: r.daemon})
		}
		if err == nil && r.address != "" {
			err = os.WriteFile(d.address(), []byte(r.address), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ daemon, socket, want string }{
		{shimProgram, "/run/a", ""},
		{processShim, "/run/a", "container machine"},
		{processShim, "/run/b", ""},
		{shimProgram, "/run/b", "container plain"},
		{shimProgram, "/run/c", ""},
		{processShim, "/run/c", "container earlier"},
		{shimProgram, "/run/new", ""},
	} {
		err := o.sameDaemon(&record{ID: "new", Daemon: tt.daemon}, tt.socket)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("sameDaemon(%s, %s) = %v, want %q", tt.daemon, tt.socket, err, tt.want)
		}
	}
}
