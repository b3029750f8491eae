// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestIDMapHost(t *testing.T) {
	m := IDMap{UIDs: []IDRange{{0, 1000, 10}, {20, 1<<32 - 2, 2}}, GIDs: []IDRange{{0, 5, 1}}}
	for _, tt := range []struct {
		uid, gid         uint32
		wantUID, wantGID uint32
		ok               bool
	}{
		{0, 0, 1000, 5, true},
		{9, 0, 1009, 5, true},
		{10, 0, 0, 5, false},
		{21, 0, 1<<32 - 1, 5, true},
		{22, 0, 0, 5, false},
		{0, 1, 1000, 0, false},
	} {
		uid, gid, ok := m.Host(tt.uid, tt.gid)
		if uid != tt.wantUID || gid != tt.wantGID || ok != tt.ok {
			t.Errorf("Host(%d, %d) = %d, %d, %v, want %d, %d, %v", tt.uid, tt.gid, uid, gid, ok, tt.wantUID, tt.wantGID, tt.ok)
		}
	}
}

func TestOverlaps(t *testing.T) {
	for _, tt := range []struct {
		a, b IDRange
		want bool
	}{
		{IDRange{0, 1000, 10}, IDRange{10, 1010, 1}, false},
		{IDRange{0, 1000, 10}, IDRange{9, 2000, 1}, true},
		{IDRange{0, 1000, 10}, IDRange{20, 995, 6}, true},
		{IDRange{1 << 31, 0, 1 << 31}, IDRange{0, 1 << 31, 1 << 31}, false},
		{IDRange{5, 5, 1}, IDRange{5, 9, 1}, true},
	} {
		if got, back := tt.a.overlaps(tt.b), tt.b.overlaps(tt.a); got != tt.want || back != tt.want {
			t.Errorf("%v and %v overlap: %v, and the other way round %v, want %v", tt.a, tt.b, got, back, tt.want)
		}
	}
}

// TestMountIDs: a mount has its own map, or the container's where an option asks for one.
func TestMountIDs(t *testing.T) {
	own := []specs.LinuxIDMapping{{HostID: 7, Size: 1}}
	mapped := IDMap{UIDs: []IDRange{{0, 7, 1}}, GIDs: []IDRange{{0, 7, 1}}}
	containers := IDMap{UIDs: []IDRange{{0, 1000, 10}, {20, 2000, 1}}, GIDs: []IDRange{{0, 1000, 10}}}
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec, *specs.Mount)
		want   IDMap
		below  bool
		fields []string
	}{
		{"none", func(s *specs.Spec, _ *specs.Mount) { userns(s) }, IDMap{}, false, nil},
		{"its own", func(s *specs.Spec, m *specs.Mount) { userns(s); m.UIDMappings, m.GIDMappings = own, own }, mapped, false, nil},
		{
			"its own and no user namespace", func(_ *specs.Spec, m *specs.Mount) { m.UIDMappings, m.GIDMappings = own, own },
			mapped, false, nil,
		},
		{"the container's", func(s *specs.Spec, m *specs.Mount) { userns(s); m.Options = []string{"idmap"} }, containers, false, nil},
		{"also below", func(s *specs.Spec, m *specs.Mount) { userns(s); m.Options = []string{"rbind", "ridmap"} }, containers, true, nil},
		{"of users alone", func(_ *specs.Spec, m *specs.Mount) { m.UIDMappings = own }, IDMap{}, false, []string{"mounts[0].uidMappings"}},
		{"too large", func(_ *specs.Spec, m *specs.Mount) {
			m.UIDMappings, m.GIDMappings = own, []specs.LinuxIDMapping{{HostID: 2, Size: 1<<32 - 1}}
		}, IDMap{}, false, []string{"mounts[0].gidMappings[0]"}},
		{"of no bind mount", func(_ *specs.Spec, m *specs.Mount) {
			m.Type, m.Source, m.UIDMappings, m.GIDMappings = "tmpfs", "tmpfs", own, own
		}, IDMap{}, false, []string{"mounts[0].uidMappings"}},
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/m", Type: "bind", Source: "/s"}}
			tt.change(s, &s.Mounts[0])
		})
		if d := cmp.Diff(tt.fields, fields(err)); d != "" {
			t.Errorf("%s: fields (-want +got):\n%s", tt.name, d)
		}
		if err != nil {
			continue
		}
		if d := cmp.Diff(tt.want, w.Mounts[0].IDs); d != "" || w.Mounts[0].MapsBelow != tt.below {
			t.Errorf("%s: below %v, map (-want +got):\n%s", tt.name, w.Mounts[0].MapsBelow, d)
		}
	}
}

// TestOneUserNamespace: what joins a guest has its user namespace or none.
func TestOneUserNamespace(t *testing.T) {
	w, err := parse(t, Options{}, userns)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.GuestSpec(GuestInput{ID: "c", User: "/u", IDs: w.Namespaces.IDs}); err != nil {
		t.Error(err)
	}
	for _, other := range []IDMap{{}, {UIDs: w.Namespaces.IDs.UIDs, GIDs: w.Namespaces.IDs.UIDs}} {
		_, err := w.GuestSpec(GuestInput{ID: "c", User: "/u", IDs: other})
		if d := cmp.Diff([]string{"linux.uidMappings"}, fields(err)); d != "" {
			t.Errorf("a guest of %v: fields (-want +got):\n%s", other, d)
		}
	}
}
