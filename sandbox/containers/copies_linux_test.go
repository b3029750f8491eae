// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
)

// readable is a driver that refuses files which not everybody on the host may read.
type readable struct{ confine.Driver }

func (readable) Admit(_ context.Context, f confine.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Host.Fd()), &st); err != nil {
		return err
	}
	if f.Kind != confine.Copy || st.Mode&unix.S_IROTH == 0 {
		return fmt.Errorf("%w: %s %q has mode %#o", labels.ErrWish, f.Kind, f.Host.Name(), st.Mode)
	}
	return nil
}

// TestChangedCopyIsAdmitted gives the name of a copied file to other ones while the guest runs. The
// driver is asked of them as of the first: a secret is not shown to the guest in its place.
func TestChangedCopyIsAdmitted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(name, []byte(text), mode), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	hosts := write("hosts", "first", 0o644)
	w := &oci.Workload{Mounts: []oci.Mount{{Kind: oci.BindMount, Destination: "/etc/hosts", Source: hosts, Purpose: oci.HostsFile}}}
	files, _, err := content.Open(content.Container{ID: "c", Bundle: dir, Workload: w})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	s := empty(nil)
	s.config.Driver = readable{}
	a := &Planned{files: files, source: content.Container{ID: "c", Workload: w}}
	a.Copies = []plan.Copy{{Destination: "/etc/hosts", Purpose: oci.HostsFile, Path: "hosts"}}
	r := &resident{}
	if err := s.addCopies(t.Context(), r, a, &guestv1.PrepareContainerRequest{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.undo.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string // in the guest
		wantErr    error
	}{
		{"new", "second", 0o644, "second", nil},
		{"secret", "a secret", 0o600, "second", labels.ErrWish},
		{"newer", "third", 0o644, "third", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Rename(write(tt.name, tt.text, tt.mode), hosts); err != nil {
				t.Fatal(err)
			}
			changed, err := r.copied[0].Refresh()
			if got := string(r.copied[0].Data); got != tt.want || changed != (tt.wantErr == nil) || !errors.Is(err, tt.wantErr) {
				t.Errorf("Refresh = %t, %v, with %q for the guest; want %v and %q", changed, err, got, tt.wantErr, tt.want)
			}
		})
	}
}
