// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenInput is what a host would add for the pod whose pid is 4711.
func goldenInput(w *Workload) GuestInput {
	in := GuestInput{ID: "c1", Network: "/proc/1/ns/net", Sources: map[int]string{}, MemoryMax: 512 << 20}
	if in.IDs = w.Namespaces.IDs; !in.IDs.IsZero() {
		in.User = "/proc/2/ns/user"
	}
	if w.Role == Member {
		in.SandboxPid, in.IPC, in.UTS, in.PID = 4711, "/proc/2/ns/ipc", "/proc/2/ns/uts", "/proc/2/ns/pid"
	}
	for i, m := range w.Mounts {
		if m.Kind == BindMount {
			in.Sources[i] = fmt.Sprintf("/run/cloister/share/c1/m/%d", i)
		}
	}
	return in
}

// golden runs one configuration of testdata through the package and prints
// what came out, in a form that is read in a diff.
func golden(t *testing.T, config []byte) string {
	t.Helper()
	var b strings.Builder
	w, err := Parse(config, Options{Annotations: []string{AnnotationMemoryMiB}, GuestDevices: []GuestDevice{Fuse}})
	if refused, ok := errors.AsType[*UnsupportedError](err); ok {
		for _, p := range refused.Problems {
			fmt.Fprintf(&b, "refused %v\n", p)
		}
		return b.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	size, err := w.Size(Sizing{MaxCPUs: 4})
	fmt.Fprintf(&b, "size %+v %v\n", size, err)
	for _, p := range w.Ignored {
		fmt.Fprintf(&b, "ignored %v\n", p)
	}
	g, err := w.GuestSpec(goldenInput(w))
	if err != nil {
		fmt.Fprintf(&b, "guest refused %v\n", err)
		return b.String()
	}
	plain := *w
	plain.spec, plain.Ignored = nil, nil
	for _, v := range []any{plain, json.RawMessage(g)} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := json.Indent(&out, data, "", " "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", &out)
	}
	return b.String()
}

// TestGolden reads configurations as engines write them; the ctr-* ones are
// ctr's own, the rest follow what the engines were seen to send.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/config.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) {
			config, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := golden(t, config)
			file := filepath.Join(filepath.Dir(f), "golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s differs (-want +got):\n%s", file, d)
			}
		})
	}
}
