// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/content"
	"cloister/sandbox/undo"
)

// empty is a set that nothing is added to by Add.
func empty(first *Planned) *Set {
	return New(Config{ID: "first", Phase: func(context.Context, string) func() { return func() {} }}, first)
}

// TestLowestFreeLUNIsTaken: a disk gets the lowest LUN that is free, also when containers come at
// once.
func TestLowestFreeLUNIsTaken(t *testing.T) {
	s := empty(nil)
	if s.HasDisks() {
		t.Error("an empty set has disks")
	}
	const disks = 20
	got := make([]int, disks)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i] = s.takeLUN() })
	}
	all.Wait()
	slices.Sort(got)
	for i, lun := range got {
		if lun != i {
			t.Fatalf("LUNs %v, want 0 to %d", got, disks-1)
		}
	}
	s.dropLUN(7)
	s.dropLUN(3)
	if a, b, c := s.takeLUN(), s.takeLUN(), s.takeLUN(); a != 3 || b != 7 || c != disks {
		t.Errorf("LUNs after two were given back: %d, %d, %d; want 3, 7, %d", a, b, c, disks)
	}
	if !s.HasDisks() {
		t.Error("a set with disks has none")
	}
}

// TestFirstPlanIsUsedOnce: the container that the sandbox was started for is planned already;
// another one, or the same again, is planned anew.
func TestFirstPlanIsUsedOnce(t *testing.T) {
	first := &Planned{}
	first.ID = "first"
	s := empty(first)
	// Its name is none, so that to plan it fails before anything of it is opened.
	if _, err := s.takeFirst(t.Context(), content.Container{ID: "no/name", Workload: &oci.Workload{}}); err == nil {
		t.Error("another container was taken for the first")
	}
	got, err := s.takeFirst(t.Context(), content.Container{ID: "first"})
	if err != nil || got != first {
		t.Errorf("takeFirst = %v, %v, want what was planned", got, err)
	}
	if s.first != nil {
		t.Error("the first container can be taken again")
	}
}

// TestAnotherLevelInAPodIsRefused: a later container of a pod whose engine labels its files at
// another level than the pod's is refused before anything of it is opened. A file at that level,
// which may be another engine's, would be copied as its /etc/hosts.
func TestAnotherLevelInAPodIsRefused(t *testing.T) {
	const file = "system_u:object_r:container_file_t:"
	own, err := labels.Parse("system_u:object_r:cloister_rootfs_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	s := empty(nil)
	s.config.Rootfs, s.config.Workload = own, &oci.Workload{Labels: oci.Labels{Mount: file + "s0:c1,c2"}}
	for asked, refused := range map[string]bool{file + "s0:c1,c2": false, file + "s0:c7,c8": true} {
		// Its name is none, so that to plan it fails.
		_, err := s.takeFirst(t.Context(), content.Container{
			ID: "no/name", Workload: &oci.Workload{Role: oci.Member, Labels: oci.Labels{Mount: asked}},
		})
		if err == nil || strings.Contains(err.Error(), "seLinuxOptions.level") != refused {
			t.Errorf("a container with files at %s: %v, want a refusal of its level: %v", asked, err, refused)
		}
	}
}

// TestRemove takes back what a container had in reverse order, all of it even when a part fails,
// and once.
func TestRemove(t *testing.T) {
	s := empty(nil)
	var done []string
	stuck := errors.New("stuck")
	r := &resident{undo: undo.Stack{}}
	for _, part := range []string{"share", "volume", "guest"} {
		r.undo.Push(part, func(context.Context) error {
			done = append(done, part)
			if part == "volume" {
				return stuck
			}
			return nil
		})
	}
	s.containers["c"] = r
	if err := s.Remove(t.Context(), "c"); !errors.Is(err, stuck) {
		t.Errorf("Remove = %v, want the error of the volume", err)
	}
	if want := []string{"guest", "volume", "share"}; !slices.Equal(done, want) {
		t.Errorf("taken back: %v, want %v", done, want)
	}
	if err := s.Remove(t.Context(), "c"); err != nil || len(done) != 3 {
		t.Errorf("Remove again = %v after %v, want nothing", err, done)
	}
	s.containers["left"] = &resident{}
	if err := s.Close(t.Context()); err != nil || len(s.containers) != 0 {
		t.Errorf("Close = %v, left %v", err, s.containers)
	}
	var none *Set
	if err := none.Close(t.Context()); err != nil {
		t.Errorf("Close of no set = %v", err)
	}
}
