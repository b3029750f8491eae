// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
)

// judge is a driver that only admits files, or refuses them.
type judge struct {
	confine.Driver

	admit func(confine.File) error
}

func (j judge) Admit(_ context.Context, f confine.File) error { return j.admit(f) }

func testLabel(t *testing.T) labels.Label {
	t.Helper()
	label, err := labels.Parse("system_u:system_r:cloister_container_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	return label
}

// TestCopiesAreAdmitted has a user name another sandbox's file for /etc/hosts. The shim may read
// it, so the driver must be asked before its bytes get into the container.
func TestCopiesAreAdmitted(t *testing.T) {
	bundle := t.TempDir()
	secret := filepath.Join(bundle, "secret")
	if err := os.WriteFile(secret, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("another sandbox's")
	var asked []confine.Kind
	s := &sandbox{identity: confine.Identity{Label: testLabel(t)}, confine: judge{admit: func(f confine.File) error {
		asked = append(asked, f.Kind)
		if f.Kind == confine.Copy && f.Host.Name() == secret && f.Label.Type == "container_file_t" {
			return refusal
		}
		return nil
	}}}
	w := &oci.Workload{
		Mounts: []oci.Mount{{Kind: oci.BindMount, Purpose: oci.HostsFile, Source: secret, Destination: "/etc/hosts"}},
		Labels: oci.Labels{Mount: "system_u:object_r:container_file_t:s0:c1,c2"},
	}
	c := &container{id: "one", bundle: bundle, workload: w, sandbox: s}
	files, _, err := content.Open(content.Container{ID: c.id, Bundle: bundle, Workload: w})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if _, err := c.admitEngines(t.Context(), 0, w.Mounts[0], files.Source(0)); !errors.Is(err, refusal) {
		t.Errorf("admitEngines = %v after %v, want the driver's refusal", err, asked)
	}
}

// TestCopiesKeepOwnerAndMode: a file that its owner alone may read is not the whole container's.
func TestCopiesKeepOwnerAndMode(t *testing.T) {
	testenv.NeedRoot(t)
	bundle := t.TempDir()
	hosts := filepath.Join(bundle, "hosts")
	if err := errors.Join(os.WriteFile(hosts, []byte("x"), 0o640), os.Chown(hosts, 7, 8)); err != nil {
		t.Fatal(err)
	}
	dir, err := statedir.New(t.TempDir(), "ns", "pod")
	if err != nil {
		t.Fatal(err)
	}
	s := &sandbox{
		dir: dir, identity: confine.Identity{Label: testLabel(t)},
		confine: judge{admit: func(confine.File) error { return nil }},
	}
	w := &oci.Workload{Mounts: []oci.Mount{{Kind: oci.BindMount, Purpose: oci.HostsFile, Source: hosts, Destination: "/etc/hosts"}}}
	c := &container{id: "one", bundle: bundle, workload: w, sandbox: s}
	if err := os.MkdirAll(c.ours(), 0o711); err != nil {
		t.Fatal(err)
	}
	files, _, err := content.Open(content.Container{ID: c.id, Bundle: bundle, Workload: w})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	name, err := c.admitEngines(t.Context(), 0, w.Mounts[0], files.Source(0))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o640 {
		t.Errorf("copy: owner %d:%d, mode %#o, %v, want 7:8 and 0640", st.Uid, st.Gid, st.Mode&0o777, err)
	}
}
