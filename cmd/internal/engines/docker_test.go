// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDockerAdd(t *testing.T) {
	const plain = `"cloister-process": {"runtimeType":"io.containerd.cloister-process.v2"}`
	const own = `"cloister": {"runtimeType":"io.containerd.cloister.v2"},` + "\n    " + plain
	const plainOptions = `"cloister-process": {"runtimeType":"io.containerd.cloister-process.v2",` +
		`"options":{"TypeUrl":"runtimeoptions.v1.Options","ConfigPath":"/c.toml"}}`
	tests := []struct {
		name, in, options, want string
		wantErr                 error
		program                 string
	}{
		{"missing", "", "", "{\n  \"runtimes\": {\n    " + own + "\n  }\n}\n", nil, ""},
		{"empty", "{}\n", "", "{\n  \"runtimes\": {\n    " + own + "\n  }\n}\n", nil, ""},
		{
			"other keys", "{\n\t\"debug\": true,\n\t\"x\": [1,  2]\n}\n", "",
			"{\n\t\"debug\": true,\n\t\"x\": [1,  2],\n\t\"runtimes\": {\n    " + own + "\n  }\n}\n", nil, "",
		},
		{"one line", `{"debug":true}`, "", `{"debug":true, "runtimes": {` + "\n    " + own + "\n  }}", nil, ""},
		{
			"other runtimes", "{\n  \"runtimes\": {\n    \"crun\": {\"path\": \"/usr/bin/crun\"}\n  },\n  \"a\\\"b\": 1\n}\n", "",
			"{\n  \"runtimes\": {\n    \"crun\": {\"path\": \"/usr/bin/crun\"},\n    " + own + "\n  },\n  \"a\\\"b\": 1\n}\n", nil, "",
		},
		{"no runtimes yet", `{"runtimes": {}}`, "", "{\"runtimes\": {\n    " + own + "\n  }}", nil, ""},
		{
			"one is there", `{"runtimes": {"cloister": { "runtimeType": "io.containerd.cloister.v2" }}}`, "",
			`{"runtimes": {"cloister": { "runtimeType": "io.containerd.cloister.v2" }, ` + plain + `}}`, nil, "",
		},
		{
			"both are there", `{"runtimes": {"cloister": { "runtimeType": "io.containerd.cloister.v2" }, ` + plain + `}}`, "",
			`{"runtimes": {"cloister": { "runtimeType": "io.containerd.cloister.v2" }, ` + plain + `}}`, nil, "",
		},
		{"the second is somebody else's", `{"runtimes": {"cloister-process": {"path": "/bin/x"}}}`, "", "", ErrConfig, ""},
		{
			"options are kept", `{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2","options":{"a":1}}}}`, "",
			`{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2","options":{"a":1}}, ` + plain + `}}`, nil, "",
		},
		{
			"options are changed", `{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2"}}}`, "/c.toml",
			`{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2",` +
				`"options":{"TypeUrl":"runtimeoptions.v1.Options","ConfigPath":"/c.toml"}}, ` + plainOptions + `}}`, nil, "",
		},
		{"somebody else's", `{"runtimes": {"cloister": {"path": "/bin/x"}}}`, "", "", ErrConfig, ""},
		{"no object", `[1]`, "", "", ErrConfig, ""},
		{"runtimes no object", `{"runtimes": 3}`, "", "", ErrConfig, ""},
		{"cut off", `{"runtimes": {`, "", "", ErrConfig, ""},
		{
			"a command line", "{}", "", "{\n  \"runtimes\": {\n    \"cloister\": {\"path\":\"/b/cloister-oci\"},\n    " +
				`"cloister-process": {"path":"/b/cloister-oci-process"}` + "\n  }\n}", nil,
			"/b/cloister-oci",
		},
		{
			"a command line in place of the shim", `{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2"}}}`, "/c.toml",
			`{"runtimes": {"cloister": {"path":"/b/cloister-oci","runtimeArgs":["--config","/c.toml"]}, ` +
				`"cloister-process": {"path":"/b/cloister-oci-process","runtimeArgs":["--config","/c.toml"]}}}`, nil, "/b/cloister-oci",
		},
		{
			"the shims in place of command lines",
			`{"runtimes": {"cloister": {"path":"/b/cloister-oci"}, "cloister-process": {"path":"/b/cloister-oci-process"}}}`, "",
			`{"runtimes": {"cloister": {"runtimeType":"io.containerd.cloister.v2"}, ` + plain + `}}`, nil, "",
		},
		{"the other class's command line", `{"runtimes": {"cloister": {"path":"/b/cloister-oci-process"}}}`, "", "", ErrConfig, ""},
		{"two values", `{} {}`, "", "", ErrConfig, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Docker{Path: "/d.json", Text: []byte(tt.in), Missing: tt.in == "", Options: tt.options, Program: tt.program}.Add()
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Add: %v, want %v", err, tt.wantErr)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, string(got.After)); diff != "" {
				t.Errorf("Add (-want +got):\n%s", diff)
			}
			again, err := Docker{Path: "/d.json", Text: got.After, Options: tt.options, Program: tt.program}.Add()
			if err != nil || again.Needed() {
				t.Errorf("Add again: %v, changes to %s", err, again.After)
			}
		})
	}
}

func TestDockerRemove(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"missing", "", ""},
		{"not there", `{"debug": true}`, `{"debug": true}`},
		{"alone", "{\n  \"debug\": true,\n  \"runtimes\": {\n    \"cloister\": {}\n  }\n}\n", "{\n  \"debug\": true\n}\n"},
		{"first", `{"runtimes": {"cloister": {}, "crun": {}}}`, `{"runtimes": {"crun": {}}}`},
		{"last", `{"runtimes": {"crun": {}, "cloister": {}}, "z": 1}`, `{"runtimes": {"crun": {}}, "z": 1}`},
		{"only key", `{"runtimes": {"cloister": {}}}`, ""},
		{"both, alone", `{"runtimes": {"cloister": {}, "cloister-process": {}}}`, ""},
		{"both, first and last", `{"runtimes": {"cloister": {}, "crun": {}, "cloister-process": {}}}`, `{"runtimes": {"crun": {}}}`},
	}
	for _, tt := range tests {
		got, err := Docker{Path: "/d.json", Text: []byte(tt.in)}.Remove()
		if err != nil {
			t.Errorf("%s: Remove: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, string(got.After)); diff != "" {
			t.Errorf("%s: Remove (-want +got):\n%s", tt.name, diff)
		}
	}
}

func FuzzDocker(f *testing.F) {
	f.Add([]byte(`{"a\"": 1, "runtimes": {"crun": {"path": "x"}}}`))
	f.Add([]byte("{\n\t\"b\" : []\n}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := Docker{Path: "/d.json", Text: text}
		change, err := d.Add()
		if err != nil {
			return
		}
		var doc struct {
			Runtimes map[string]entry `json:"runtimes"`
		}
		if err := json.Unmarshal(change.After, &doc); err != nil || doc.Runtimes[Runtime].RuntimeType != RuntimeType ||
			doc.Runtimes[ProcessRuntime].RuntimeType != ProcessRuntimeType {
			t.Errorf("Add(%q) = %q, which has no runtime: %v", text, change.After, err)
		}
	})
}
