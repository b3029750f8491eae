// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"cloister/oci"
)

// call runs a verb of the command line and gives its output.
func call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(&options{})
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// TestSpecIsAccepted: the configuration that the verb spec writes is accepted in both classes, and
// replaces nothing.
func TestSpecIsAccepted(t *testing.T) {
	dir := t.TempDir()
	if _, err := call(t, "spec", "--bundle", dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for class, parse := range map[oci.Class]func([]byte, oci.Options) (*oci.Workload, error){
		oci.ClassVM: oci.Parse, oci.ClassProcess: oci.ParseContainer,
	} {
		if _, err := parse(data, oci.Options{}); err != nil {
			t.Errorf("class %s: %v", class, err)
		}
	}
	if _, err := call(t, "spec", "--bundle", dir); !errors.Is(err, errSpecThere) {
		t.Errorf("spec beside a config.json = %v, want %v", err, errSpecThere)
	}
}

func TestFeatures(t *testing.T) {
	out, err := call(t, "features")
	if err != nil {
		t.Fatal(err)
	}
	var f features.Features
	if err := json.Unmarshal([]byte(out), &f); err != nil || f.OCIVersionMax != specs.Version || f.Linux == nil {
		t.Errorf("features = %s, %v, want those of runtime-spec %s", out, err, specs.Version)
	}
}
