// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

const (
	mainV2 = `# our config
version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause:3" # keep
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[unheard_of]
  key = 1
`
	mainV3 = "version = 3\nimports = ['conf.d/*.toml']\n"
	criV3  = "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n  enable_selinux = true\n"
)

// folder is what stands in a folder that is imported.
func folder(files map[string]string) func(string) (map[string][]byte, error) {
	return func(pattern string) (map[string][]byte, error) {
		found := map[string][]byte{}
		for name, text := range files {
			if ok, err := filepath.Match(pattern, name); err != nil || ok {
				found[name] = []byte(text)
			}
		}
		return found, nil
	}
}

func TestContainerdAdd(t *testing.T) {
	const main = "/etc/containerd/config.toml"
	tests := []struct {
		name     string
		in       Containerd
		wantPath string
		wantErr  error
	}{
		{"missing-v2", Containerd{Missing: true, Version: 2}, main, nil},
		{"missing-v3", Containerd{Missing: true, Version: 3}, main, nil},
		{"block-v2", Containerd{Text: []byte(mainV2)}, main, nil},
		{"block-options", Containerd{Text: []byte(mainV2), Options: "/etc/cloister/pods.toml"}, main, nil},
		{"block-v4", Containerd{Text: []byte("version = 4\n[plugins.'io.containerd.cri.v1.runtime']\n  x = 1\n")}, main, nil},
		{"drop-in-v3", Containerd{Text: []byte(mainV3), Imported: folder(nil)}, "/etc/containerd/conf.d/cloister.toml", nil},
		{
			"another drop-in has the plugin",
			Containerd{Text: []byte(mainV3), Imported: folder(map[string]string{"/etc/containerd/conf.d/cri.toml": criV3})},
			main, nil,
		},
		{
			"an import has it already",
			Containerd{
				Text: []byte(mainV3),
				Imported: folder(map[string]string{
					"/etc/containerd/conf.d/mine.toml": "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.cloister]\n" +
						"runtime_type='x'\n",
				}),
			},
			"", ErrConfig,
		},
		{"version 1", Containerd{Text: []byte("[plugins.cri]\n"), Version: 2}, "", ErrConfig},
		{"version 9", Containerd{Text: []byte("version = 9\n")}, "", ErrConfig},
		{"no TOML", Containerd{Text: []byte("{")}, "", ErrConfig},
		{
			"somebody else's",
			Containerd{Text: []byte(mainV2 + "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.cloister]\nruntime_type='x'\n")},
			"", ErrConfig,
		},
		{
			"the second is somebody else's",
			Containerd{Text: []byte(mainV2 +
				"[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.cloister-process]\nruntime_type='x'\n")},
			"", ErrConfig,
		},
		{
			"runtimes in one line",
			Containerd{Text: []byte("version = 2\nplugins.'io.containerd.grpc.v1.cri'.containerd.runtimes = {}\n")},
			"", ErrConfig,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Path = main
			changes, err := tt.in.Add()
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Add: %v, want %v", err, tt.wantErr)
			}
			if err != nil {
				return
			}
			got := changes[0]
			if got.Path != tt.wantPath {
				t.Errorf("Add changes %s, want %s", got.Path, tt.wantPath)
			}
			if !strings.Contains(tt.name, " ") {
				golden(t, tt.name+".toml", got.After)
			}
			if got.Path == main && !tt.in.Missing && !strings.HasPrefix(string(got.After), string(tt.in.Text)) {
				t.Errorf("Add changed what was there:\n%s", got.After)
			}
			again(t, tt.in, got)
		})
	}
}

// again adds once more, which changes nothing, and removes, which gives what was.
func again(t *testing.T, in Containerd, first Change) {
	t.Helper()
	second := in
	if first.Path == in.Path {
		second.Text, second.Missing = first.After, false
	} else {
		second.Imported = folder(map[string]string{first.Path: string(first.After)})
	}
	got, err := second.Add()
	if err != nil || len(got) != 1 {
		t.Fatalf("Add again gave %d changes and %v, want 1", len(got), err)
	}
	if got[0].Needed() {
		t.Errorf("Add again changes %s to:\n%s", got[0].Path, got[0].After)
	}
	back, err := second.Remove()
	if err != nil || len(back) != 1 {
		t.Fatalf("Remove gave %d changes and %v, want 1", len(back), err)
	}
	want := string(in.Text)
	if first.Path != in.Path {
		want = ""
	}
	if in.Missing {
		want, _, _ = strings.Cut(string(first.After), "\n"+beginMark)
	}
	if string(back[0].After) != want {
		t.Errorf("Remove left %q, want %q", back[0].After, want)
	}
}

// TestContainerdDropInBecomesABlock: a main file that has come to have the plugin makes a block of
// the file of its own.
func TestContainerdDropInBecomesABlock(t *testing.T) {
	const own = "/etc/containerd/conf.d/cloister.toml"
	c := Containerd{
		Path: "/etc/containerd/config.toml", Text: []byte(mainV3 + criV3[len("version = 3\n"):]),
		Imported: folder(map[string]string{own: "version = 3\n"}),
	}
	got, err := c.Add()
	if err != nil || len(got) != 2 {
		t.Fatalf("Add gave %d changes and %v, want 2", len(got), err)
	}
	if got[0].Path != c.Path || got[1].Path != own || len(got[1].After) != 0 || !got[1].Needed() {
		t.Errorf("Add changes %s and %s to %q, want the main file and the other one gone", got[0].Path, got[1].Path, got[1].After)
	}
}

func FuzzContainerd(f *testing.F) {
	f.Add([]byte(mainV2))
	f.Add([]byte(mainV3))
	f.Add([]byte("version = 2\n" + beginMark))
	f.Fuzz(func(t *testing.T, text []byte) {
		changes, err := Containerd{Path: "/c.toml", Text: text, Version: 2}.Add()
		if err != nil {
			return
		}
		after := changes[0].After
		if doc, err := parse("/c.toml", after); err != nil || runtimeIn(doc, Runtime) == nil {
			t.Errorf("Add(%q) = %q, which has no runtime: %v", text, after, err)
		}
	})
}
