// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func TestVolumesAreUnmountedAfterTheirLastContainer(t *testing.T) {
	v := NewVolumes()
	var mounted []string
	mount := func(name string) error {
		mounted = append(mounted, name)
		return nil
	}
	for id, names := range map[ID][]string{"a": {"0", "1", "1"}, "b": {"1"}} {
		if err := v.Add(id, names, mount); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Sort(mounted); !slices.Equal(mounted, []string{"0", "1"}) {
		t.Errorf("mounted %q, want both, once", mounted)
	}
	var gone []string
	unmount := func(name string) error {
		gone = append(gone, name)
		return nil
	}
	busy := errors.New("busy")
	if err := v.Drop("b", func(string) error { return busy }); err != nil {
		t.Errorf("Drop of a volume that another container has unmounts it: %v", err)
	}
	if err := v.Drop("a", func(string) error { return busy }); !errors.Is(err, busy) {
		t.Errorf("Drop = %v, want %v", err, busy)
	}
	for range 2 { // the second time there is nothing
		if err := v.Drop("a", unmount); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Sort(gone); !slices.Equal(gone, []string{"0", "1"}) {
		t.Errorf("unmounted %q, want both, once", gone)
	}
	if len(v.uses) != 0 {
		t.Errorf("left: %v", v.uses)
	}
}

func TestVolumesRefuseBadNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/a", "../a"} {
		none := func(string) error { return nil }
		if err := NewVolumes().Add("a", []string{name}, none); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Add(%q) = %v, want ErrInvalidArgument", name, err)
		}
	}
}
