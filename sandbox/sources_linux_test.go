// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/oci"
)

func TestSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"listed", "listed-not"} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", name+"/s")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := os.Symlink("../listed-not/s", "listed/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("listed/s", "outside"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		source, listed string
		refused        string
	}{
		{"listed/s", "", "list it under workloads.sockets"},
		{"listed/s", dir + "/listed", ""},
		{"listed/s", dir + "/listed/", ""},
		{"listed/s", dir + "/listed/s", ""},
		{"listed/s", dir + "/outside", ""},
		{"outside", dir + "/listed", ""},
		{"listed/link", dir + "/listed", "list it under workloads.sockets"},
		{"listed-not/s", dir + "/listed", "list it under workloads.sockets"},
		{"listed/s", dir + "/nothing", "list it under workloads.sockets"},
		{"listed/s", "listed", "not an absolute path"},
	} {
		var list []string
		if tt.listed != "" {
			list = []string{tt.listed}
		}
		w := &oci.Workload{Mounts: []oci.Mount{{Kind: oci.BindMount, Source: filepath.Join(dir, tt.source), Destination: "/s"}}}
		err := checkSources(Container{Workload: w}, oci.Options{Sockets: list})
		if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s with %q: %v, want %q", tt.source, list, err, tt.refused)
		}
	}
	err = checkSources(Container{Workload: &oci.Workload{}}, oci.Options{Watch: []string{"home"}})
	if err == nil || !strings.Contains(err.Error(), `workloads.watch: "home" is not an absolute path`) {
		t.Errorf("a relative folder under workloads.watch: %v", err)
	}
}
