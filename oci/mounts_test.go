// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestFollows(t *testing.T) {
	for options, want := range map[string]bool{
		"rbind": true, "rbind rslave": true, "rbind slave ro": true, "rbind rprivate": false, "rbind private": false,
		"rbind runbindable": false, "rbind rro": false, "rbind rro rprivate": false,
	} {
		w, err := parse(t, Options{}, func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/v", Source: "/v", Type: "bind", Options: strings.Fields(options)}}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Mounts[0].Follows(); got != want {
			t.Errorf("%s: Follows = %t, want %t", options, got, want)
		}
	}
	_, err := parse(t, Options{}, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/v", Source: "/v", Type: "bind", Options: []string{"rbind", "rro", "rslave"}}}
	})
	if got := fields(err); !slices.Equal(got, []string{"mounts[0].options"}) {
		t.Errorf("rro with rslave = %v, want it refused", err)
	}
}
