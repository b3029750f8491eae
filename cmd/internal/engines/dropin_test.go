// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

// TestPodman: the lists that a drop-in replaces keep their names, and doing it again changes
// nothing.
func TestPodman(t *testing.T) {
	p := Podman{Path: "/c.d/cloister.conf", Missing: true, Program: "/usr/bin/cloister-oci"}
	for _, tt := range []struct {
		name   string
		others []string
		json   string
		err    error
	}{
		{"defaults", nil, `["crun", "runc", "kata", "runsc", "krun", "cloister", "cloister-process"]`, nil},
		{"the last file's list", []string{
			"[engine]\nruntime_supports_json = [\"a\"]\n",
			"[engine]\nruntime_supports_json = [\"b\"]\n",
		}, `["b", "cloister", "cloister-process"]`, nil},
		{
			"already in it",
			[]string{"[engine]\nruntime_supports_json = [\"cloister\", \"b\"]\n"},
			`["cloister", "b", "cloister-process"]`, nil,
		},
		{"not TOML", []string{"[engine"}, "", ErrConfig},
	} {
		p.Others = nil
		for _, text := range tt.others {
			p.Others = append(p.Others, []byte(text))
		}
		got, err := p.Add()
		if !errors.Is(err, tt.err) || err == nil && !strings.Contains(string(got.After), "runtime_supports_json = "+tt.json+"\n") {
			t.Errorf("%s: Add = %s, %v, want %s, %v", tt.name, got.After, err, tt.json, tt.err)
		}
		if err != nil {
			continue
		}
		check(t, got, "engine", "runtimes", "cloister")
		check(t, got, "engine", "runtimes", "cloister-process")
		if want := "cloister-process = [\"/usr/bin/cloister-oci-process\"]\n"; !strings.Contains(string(got.After), want) ||
			!strings.Contains(string(got.After), "runtime_supports_kvm = [\"kata\", \"krun\", \"cloister\"]\n") {
			t.Errorf("%s: Add = %s, want %s and no machine by that name", tt.name, got.After, want)
		}
		again := p
		again.Text, again.Missing = got.After, false
		if change, err := again.Add(); err != nil || change.Needed() {
			t.Errorf("%s: Add again = %s, %v", tt.name, change.After, err)
		}
		if change, err := again.Remove(); err != nil || !change.Needed() || len(change.After) > 0 {
			t.Errorf("%s: Remove = %s, %v", tt.name, change.After, err)
		}
	}
	if change, err := p.Remove(); err != nil || change.Needed() {
		t.Errorf("Remove of nothing = %+v, %v", change, err)
	}
	p.Text, p.Missing = []byte("[engine]\n"), false
	if _, err := p.Add(); !errors.Is(err, ErrConfig) {
		t.Errorf("Add over another's file: %v", err)
	}
	if _, err := p.Remove(); !errors.Is(err, ErrConfig) {
		t.Errorf("Remove of another's file: %v", err)
	}
}

func TestCRIO(t *testing.T) {
	c := CRIO{Path: "/c.d/cloister.conf", Missing: true, Shim: "/usr/bin/containerd-shim-cloister-v2", Program: "/usr/bin/cloister-oci"}
	for name, tt := range map[string]struct {
		oci     bool
		options string
		want    string
	}{
		"vm": {false, "", `[crio.runtime.runtimes.cloister]
runtime_path = "/usr/bin/containerd-shim-cloister-v2"
runtime_type = "vm"
runtime_root = "/run/cloister-crio"
privileged_without_host_devices = true

[crio.runtime.runtimes.cloister-process]
runtime_path = "/usr/bin/containerd-shim-cloister-process-v2"
runtime_type = "vm"
runtime_root = "/run/cloister-crio"
privileged_without_host_devices = true
`},
		"vm with a config": {false, "/c.toml", `[crio.runtime.runtimes.cloister]
runtime_path = "/usr/bin/containerd-shim-cloister-v2"
runtime_type = "vm"
runtime_root = "/run/cloister-crio"
privileged_without_host_devices = true
runtime_config_path = "/c.toml"

[crio.runtime.runtimes.cloister-process]
runtime_path = "/usr/bin/containerd-shim-cloister-process-v2"
runtime_type = "vm"
runtime_root = "/run/cloister-crio"
privileged_without_host_devices = true
runtime_config_path = "/c.toml"
`},
		"oci": {true, "", `[crio.runtime]
drop_infra_ctr = false

[crio.runtime.runtimes.cloister]
runtime_path = "/usr/bin/cloister-oci"
runtime_type = "oci"
runtime_root = "/run/cloister-oci-crio"

[crio.runtime.runtimes.cloister-process]
runtime_path = "/usr/bin/cloister-oci-process"
runtime_type = "oci"
runtime_root = "/run/cloister-oci-crio"
`},
	} {
		c.OCI, c.Options = tt.oci, tt.options
		got, err := c.Add()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(own+tt.want, string(got.After)); d != "" {
			t.Errorf("%s: Add (-want +got):\n%s", name, d)
		}
		check(t, got, "crio", "runtime", "runtimes", "cloister")
		check(t, got, "crio", "runtime", "runtimes", "cloister-process")
	}
}

// check wants a change to TOML that has a key.
func check(t *testing.T, c Change, keys ...string) {
	t.Helper()
	var at any
	doc := table{}
	if err := toml.Unmarshal(c.After, &doc); err != nil {
		t.Fatal(err)
	}
	at = doc
	for _, key := range keys {
		m, _ := at.(map[string]any)
		if at = m[key]; at == nil {
			t.Fatalf("no %q in\n%s", key, c.After)
		}
	}
}
