// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/sandbox"
)

func TestClassByName(t *testing.T) {
	const vm = "containerd-shim-cloister-v2"
	for _, tt := range []struct {
		shim       string
		configured oci.Class
		path       string
		want       oci.Class
		refused    bool
	}{
		{vm, "", "", "", false},
		{vm, oci.ClassProcess, "/p.toml", oci.ClassProcess, false},
		{processName, "", "", oci.ClassProcess, false},
		{processName, oci.ClassVM, "", oci.ClassProcess, false}, // the host's own, for the other name
		{processName, "", "/p.toml", oci.ClassProcess, false},
		{processName, oci.ClassProcess, "/p.toml", oci.ClassProcess, false},
		{processName, oci.ClassVM, "/p.toml", "", true},
	} {
		got, err := named(tt.shim, tt.configured, tt.path)
		if got != tt.want || (err != nil) != tt.refused || err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("named(%q, %q, %q) = %q, %v, want %q", tt.shim, tt.configured, tt.path, got, err, tt.want)
		}
	}
}

func TestSameFolders(t *testing.T) {
	own := sandbox.Config{State: "/run/cloister", Root: "/srv/cloister"}
	if err := sameFolders(sandbox.Config{Root: "/srv/cloister/"}, own, "/p.toml"); err != nil {
		t.Error(err)
	}
	for _, other := range []sandbox.Config{{}, {State: "/run/other", Root: "/srv/cloister"}} {
		err := sameFolders(other, own, "/p.toml")
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "/p.toml") ||
			!strings.Contains(err.Error(), "/srv/cloister") {
			t.Errorf("sameFolders(%+v) = %v, want a refusal that names both", other, err)
		}
	}
}
