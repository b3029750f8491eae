// SPDX-License-Identifier: Apache-2.0

package background

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox"
	"cloister/sandbox/template"
)

// TestEnough leaves a twentieth of the host beside a build.
func TestEnough(t *testing.T) {
	for _, tt := range []struct {
		free, whole, need uint64
		want              bool
	}{
		{2000, 8000, 1024, true},
		{1424, 8000, 1024, true},
		{1423, 8000, 1024, false},
		{0, 0, 1024, false},
	} {
		err := enough("memory", tt.free, tt.whole, tt.need)
		if (err == nil) != tt.want || err != nil && !errdefs.IsResourceExhausted(err) {
			t.Errorf("enough(%d of %d, %d) = %v, want %t", tt.free, tt.whole, tt.need, err, tt.want)
		}
	}
}

// TestFault: what a host lacks for a moment does not keep a size from templates for good.
func TestFault(t *testing.T) {
	for _, err := range []error{
		template.ErrThere, template.ErrBusy, template.ErrDisabled, template.ErrSetAside, template.ErrFull,
		errors.Join(errors.New("hello: EOF"), fmt.Errorf("the host was out of memory: %w", errdefs.ErrResourceExhausted)),
		&fs.PathError{Op: "write", Path: "memory", Err: unix.ENOSPC}, nil,
	} {
		if fault(err) {
			t.Errorf("%v counts as a fault of the build", err)
		}
	}
	if err := errors.New("the guest's agent sent nothing"); !fault(err) {
		t.Errorf("%v is no fault", err)
	}
}

// TestParse reads what ask writes, and refuses a call by hand.
func TestParse(t *testing.T) {
	size, path, err := parse([]string{BuilderName, "512", "2", "microvm", "/c.toml"})
	want := sandbox.TemplateRequest{
		Size: template.Size{LimitMiB: 512, CPUs: 2, Machine: "microvm"}, Shares: shares, Missing: true,
	}
	if err != nil || size != want || path != "/c.toml" {
		t.Errorf("parse = %+v, %q, %v, want %+v", size, path, err, want)
	}
	for _, args := range [][]string{{BuilderName}, {BuilderName, "x", "1", "microvm", ""}, {BuilderName, "1", "", "microvm", ""}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("parse(%q) took them", args)
		}
	}
}
