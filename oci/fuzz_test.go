// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzParse: no input makes Parse panic, every refusal is an ErrInvalidArgument, and the guest's
// configuration of an accepted one holds nothing but cloister's own fields.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/config.json")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"linux":{"resources":{"cpu":{"cpus":"0-99999999"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := Parse(data, Options{GuestDevices: []GuestDevice{Fuse, Tun}, BlockDevices: true, Annotations: []string{AnnotationCPUs}})
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("error of another class: %v", err)
			}
			return
		}
		if _, err := w.Size(Sizing{}); err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Fatal(err)
		}
		in := goldenInput(w)
		in.Devices = map[int]DeviceNumber{}
		for i := range w.Devices {
			in.Devices[i] = DeviceNumber{Block: true, Major: 8, Minor: int64(i)}
		}
		g, err := w.GuestSpec(in)
		if err != nil {
			return
		}
		var s specs.Spec
		if err := json.Unmarshal(g, &s); err != nil {
			t.Fatal(err)
		}
		if s.Root.Path != "rootfs" || s.Linux.CgroupsPath != "/c1" || s.Hooks != nil ||
			len(s.Annotations) > 0 || s.Process.SelinuxLabel != "" {
			t.Fatalf("the host's configuration shows in the guest's: %s", g)
		}
		for _, m := range s.Mounts {
			if m.Type == "bind" && !strings.HasPrefix(m.Source, "/run/cloister/") {
				t.Fatalf("host path %q in the guest's configuration", m.Source)
			}
		}
	})
}

// FuzzParseProcess and FuzzParseResources: no bytes make them panic.
func FuzzParseProcess(f *testing.F) {
	f.Add([]byte(`{"args":["sh"],"cwd":"/","user":{"uid":1},"capabilities":{"bounding":["CAP_CHOWN","X"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProcess(data, Options{})
		if err != nil {
			return
		}
		if _, err := p.GuestProcess(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseResources(f *testing.F) {
	f.Add([]byte(`{"memory":{"limit":1048576,"swap":-1},"cpu":{"quota":1000,"cpus":"0-2,7"},"unified":{"memory.high":"1"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := ParseResources(data, Options{})
		if err != nil {
			return
		}
		if _, err := u.GuestResources(1 << 40); err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Fatal(err)
		}
	})
}
