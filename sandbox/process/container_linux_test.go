// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
)

// TestRuntimeGetsTheRecordedCgroup: the group that the runtime is told to make is the one that the
// sandbox records and removes, whatever the engine's path looks like.
func TestRuntimeGetsTheRecordedCgroup(t *testing.T) {
	testenv.NeedRoot(t)
	bundle := t.TempDir()
	dir, err := statedir.New(t.TempDir(), "ns", "pod")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(dir.String(), 0o711), os.Mkdir(filepath.Join(bundle, "rootfs"), 0o711)); err != nil {
		t.Fatal(err)
	}
	w, err := oci.ParseContainer([]byte(`{"ociVersion": "1.0.2", "process": {"args": ["true"], "cwd": "/"},
		"root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "mount"}]}}`), oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &sandbox{dir: dir, confine: judge{admit: func(confine.File) error { return nil }}}
	for given, want := range map[string]struct{ path, group string }{
		"/a/b":                {"/a/b", "/a/b"},
		"a/b":                 {"/a/b", "/a/b"},
		"/a/../../b/./c/":     {"/b/c", "/b/c"},
		"a.slice:cri-test:c1": {"a.slice:cri-test:c1", "/a.slice/cri-test-c1.scope"},
	} {
		c := &container{id: "one", bundle: bundle, workload: w, sandbox: s, cgroups: given}
		keep, err := c.prepare(t.Context(), nil)
		if err != nil {
			t.Fatalf("%s: %v", given, err)
		}
		keep.Close()
		data, err := os.ReadFile(filepath.Join(c.ours(), "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var spec struct {
			Linux struct {
				CgroupsPath string `json:"cgroupsPath"`
			} `json:"linux"`
		}
		if err := json.Unmarshal(data, &spec); err != nil {
			t.Fatal(err)
		}
		if got := spec.Linux.CgroupsPath; got != want.path || c.group.String() != want.group {
			t.Errorf("cgroupsPath %q: the runtime gets %q, the record has %q, want %q and %q", given, got, c.group, want.path, want.group)
		}
	}
}
