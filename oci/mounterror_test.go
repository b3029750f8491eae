// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

func TestExplainMount(t *testing.T) {
	w := &Workload{Mounts: []Mount{
		{Kind: GuestMount, Type: "tmpfs", Destination: "/tmp"},
		{Kind: BindMount, Source: "/srv/file", Destination: "/etc"},
	}}
	for _, tt := range []struct{ name, in, want string }{
		{
			"bind", "create failed: mount `/run/cloister/share/v/0` to `etc`: not a directory",
			`create failed: mount "/srv/file" on "/etc": not a directory`,
		},
		{"absolute", "mount '/run/cloister/share/v/0' to '/etc': x", `mount "/srv/file" on "/etc": x`},
		{"not a bind", "mount `tmpfs` to `tmp`: no", "mount `tmpfs` to `tmp`: no"},
		{"of no mount", "mount `/a` to `b`: no", "mount `/a` to `b`: no"},
		{"something else", "no such container", "no such container"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := w.ExplainMount(fmt.Errorf("%s%w", tt.in, hidden{errdefs.ErrFailedPrecondition}))
			if got.Error() != tt.want || !errdefs.IsFailedPrecondition(got) {
				t.Errorf("ExplainMount(%q) = %q, want %q of the same class", tt.in, got, tt.want)
			}
		})
	}
	if err := w.ExplainMount(nil); err != nil {
		t.Errorf("ExplainMount(nil) = %v", err)
	}
}

// hidden is an error of a class, without a text.
type hidden struct{ error }

func (hidden) Error() string   { return "" }
func (h hidden) Unwrap() error { return h.error }
