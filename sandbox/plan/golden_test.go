// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels"
	"cloister/oci"
	"cloister/vmm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// found is a host on which every source is a folder, but for the engines' copied files and one
// socket.
func found(w *oci.Workload) []Source {
	sources := make([]Source, len(w.Mounts))
	for i, m := range w.Mounts {
		if m.Kind != oci.BindMount || m.Purpose == oci.SharedMemory {
			continue
		}
		s := Source{Name: m.Source, Real: m.Source, Kind: Folder, Mode: 0o755, ID: FileID{Device: "8:1", Inode: uint64(100 + i), Mount: 29}}
		switch {
		case m.Purpose.Copied(), m.Purpose == oci.TerminationLog:
			s.Kind, s.Mode = RegularFile, 0o644
		case strings.HasSuffix(m.Source, ".sock"):
			s.Kind, s.Mode, s.GID = Socket, 0o660, 998
		}
		sources[i] = s
	}
	return sources
}

// describe prints a container's plan and the spec that its guest gets, in a form that is read in a
// diff.
func describe(t *testing.T, name string, config []byte) string {
	t.Helper()
	w, err := oci.Parse(config, oci.Options{Annotations: []string{oci.AnnotationMemoryMiB}, GuestDevices: []oci.GuestDevice{oci.Fuse}})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	tokens := make([]string, len(w.Mounts))
	for i := range tokens {
		tokens[i] = fmt.Sprintf("token%d", i)
	}
	sandbox := describeSandbox(t, w)
	c, err := NewContainer(Request{
		ID: "c1", Workload: w, Sources: found(w), Tokens: tokens, Nodes: make([]string, len(w.Devices)),
		Rules: Rules{
			Sockets: []string{"/run/docker.sock"}, Watch: []string{"/home"},
			Labels: []LabelRule{{Folder: "/srv", Sharing: labels.Shared}},
		},
	})
	if err != nil {
		return sandbox + "refused: " + err.Error() + "\n"
	}
	guest := Guest{Pid: 4711, Namespaces: w.Namespaces, MemoryMax: 512 << 20, First: w.Role == oci.Single, Volumes: map[int]string{}}
	for i, v := range c.Volumes {
		guest.Volumes[v.Mount] = fmt.Sprint(i)
	}
	out := sandbox + "plan " + indent(t, c) + "\n"
	if c.Pause {
		return out
	}
	spec, err := c.Spec(guest)
	if err != nil {
		return out + "spec refused: " + err.Error() + "\n"
	}
	var mounts struct {
		Mounts json.RawMessage `json:"mounts"`
	}
	if err := json.Unmarshal(spec, &mounts); err != nil {
		t.Fatal(err)
	}
	return out + "mounts of the guest's spec " + indent(t, mounts.Mounts) + "\n"
}

// describeSandbox prints the plan of the sandbox that the workload is the first container of. Other
// containers are put into a sandbox that is there.
func describeSandbox(t *testing.T, w *oci.Workload) string {
	t.Helper()
	if w.Role == oci.Member {
		return ""
	}
	wish := labels.Wish{Share: w.Settings.Labels.Share}
	if text := w.Labels.Process; text != "" {
		var err error
		if wish.Engine, err = labels.Parse(text); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewSandbox(SandboxRequest{Namespace: "default", ID: "c1", Workload: w, Facts: Facts{
		Host: Host{Accel: vmm.AccelKVM, Kernel: "/guest/kernel", Initrd: "/guest/initrd", Small: true},
		NICs: [][4]byte{{1, 2, 3, 4}}, Sizing: oci.Sizing{MaxCPUs: 8}, Hostname: "host",
		GuestPorts: "32768 49999", Devices: true, Wish: wish,
	}})
	if err != nil {
		return "sandbox refused: " + err.Error() + "\n"
	}
	types := make([]string, len(s.Identity.Types))
	for i, set := range s.Identity.Types { // the rest of a set follows from its name
		types[i] = fmt.Sprintf("%s: %s, %s", set.Name, set.QEMU, set.Virtiofsd)
	}
	s.Identity.Types = nil
	return "sandbox " + indent(t, struct {
		Sandbox

		Types []string
	}{s, types}) + "\n"
}

// indent prints a value as JSON, without what is empty.
func indent(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	text, err = json.MarshalIndent(full(tree), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// full takes empty values out of a tree; what has no other values is empty itself.
func full(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for key, value := range v {
			if v[key] = full(value); v[key] == nil {
				delete(v, key)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = full(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	case string, bool, float64:
		if v == "" || v == false {
			return nil
		}
	}
	return tree
}

// TestGolden plans what engines sent: the configurations are those that package oci is tested with,
// and some of this package's own. Refresh with -update and read the diff.
func TestGolden(t *testing.T) {
	configs, err := filepath.Glob("../../oci/testdata/*/config.json")
	if err != nil {
		t.Fatal(err)
	}
	own, err := filepath.Glob("testdata/*/config.json")
	if err != nil || len(own) == 0 {
		t.Fatalf("no configurations of this package's own: %v", err)
	}
	for _, name := range append(configs, own...) {
		workload := filepath.Base(filepath.Dir(name))
		if slices.Contains([]string{
			"cri-bidirectional", "cri-hostall", "cri-privileged", "ctr-joined",
			"ctr-nethost", "ctr-privileged", "docker-container-namespaces",
		}, workload) {
			continue // refused by oci
		}
		t.Run(workload, func(t *testing.T) {
			config, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(t, name, config)
			golden := filepath.Join("testdata", workload+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s differs (-want +got); run with -update and read the diff:\n%s", golden, diff)
			}
		})
	}
}
