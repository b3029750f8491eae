// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"cloister/labels/policy"
)

func TestFileRules(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "a+b")
	link := filepath.Join(dir, "link")
	image := filepath.Join(store, "x.img")
	if err := errors.Join(os.Mkdir(store, 0o755), os.Symlink(store, link), os.WriteFile(image, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	pattern := strings.ReplaceAll(strings.ReplaceAll(store, ".", `\.`), "+", `\+`)
	tests := []struct {
		name, in string
		want     []fileRule
	}{
		{"folder", store, []fileRule{{"a", pattern + "(/.*)?", store}}},
		{"link", link, []fileRule{{"a", pattern + "(/.*)?", store}}},
		{"file", image, []fileRule{{"f", pattern + `/x\.img`, image}}},
		{"system folder", "/etc", nil},
		{"root", "/", nil},
		{"relative", "x", nil},
		{"dots", dir + "/../x", nil},
		{"missing", dir + "/none", nil},
		{"character device", "/dev/null", nil},
	}
	for _, tt := range tests {
		got, err := fileRules(tt.in)
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(fileRule{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestFcontextDryRun(t *testing.T) {
	s := fakeSite(t, nil)
	store := filepath.Join(s.root, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.command(t, "policy", "fcontext", "add", "--dry-run", "--type", "virt_image_t", store)
	want := "semanage fcontext -a -f a -t virt_image_t -r s0 '" + store + "(/.*)?'\nrestorecon -RFv " + store + "\n"
	if err != nil || out != want {
		t.Errorf("add: %q, %v, want %q", out, err, want)
	}
	if _, _, err := s.command(t, "policy", "fcontext", "add", "--dry-run", "--type", "x; reboot", store); err == nil {
		t.Error("a type that is none was taken")
	}
	out, _, err = s.command(t, "policy", "fcontext", "remove", "--dry-run", store)
	if err != nil || !strings.HasPrefix(out, "semanage fcontext -d -f a '") {
		t.Errorf("remove: %q, %v", out, err)
	}
}

// noKernel answers nothing.
type noKernel struct{}

func (noKernel) Allowed(string, string, string, string) (policy.Answer, error) {
	return policy.Answer{}, os.ErrInvalid
}

// oddKernel denies and allows what own says.
type oddKernel struct{}

func (oddKernel) Allowed(source, target, _, permission string) (policy.Answer, error) {
	level := func(s string) string { return strings.Join(strings.SplitN(s, ":", 4)[3:], "") }
	own := level(source) == level(target) && permission == "write" && !strings.Contains(target, "svirt")
	return policy.Answer{Allowed: own}, nil
}

func TestTestTypes(t *testing.T) {
	s := fakeSite(t, nil)
	if list, passed := s.testTypes(noKernel{}); passed != 0 || len(list) != 6 || list[0].Problem == "" {
		t.Errorf("a kernel without an answer: %d passed of %+v", passed, list)
	}
	list, passed := s.testTypes(oddKernel{})
	if passed == 0 || passed == len(list) {
		t.Errorf("a kernel that keeps some apart: %d passed of %+v", passed, list)
	}
}

func TestPolicyReport(t *testing.T) {
	tests := []struct {
		in           policyReport
		mode, module string
	}{
		{policyReport{}, "security=selinux", "cloister policy install"},
		{policyReport{Enabled: true}, "setenforce 1", "not installed"},
		{policyReport{Enabled: true, Enforcing: true, Module: policy.State{Installed: true}}, "enforcing", "not of this version"},
		{policyReport{Module: policy.State{Installed: true, Current: true}}, "not enabled", "installed and current"},
		{policyReport{Enabled: true, Enforcing: true, Module: policy.State{Partial: true}}, "enforcing", "only one of its two modules"},
		{policyReport{Problem: "semodule is not here"}, "", "semodule is not here"},
	}
	for _, tt := range tests {
		if !strings.Contains(tt.in.mode(), tt.mode) || !strings.Contains(tt.in.module(), tt.module) {
			t.Errorf("%+v: %q, %q, want %q, %q", tt.in, tt.in.mode(), tt.in.module(), tt.mode, tt.module)
		}
	}
}

// TestHasPolicy: a host without a policy is told what to install, not what semodule says.
func TestHasPolicy(t *testing.T) {
	for _, tt := range []struct {
		name, config, there string
		store               string
		want                error
	}{
		{"nothing", "", "", "", fs.ErrNotExist},
		{"named and absent", "SELINUXTYPE=default\n", "", "", errdefs.ErrNotFound},
		{"no name", "SELINUX=permissive\n", "default", "", errdefs.ErrNotFound},
		{"there", "# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", "targeted", "", nil},
		{"the flag's", "", "mls", "mls", nil},
	} {
		root := t.TempDir()
		if tt.config != "" || tt.there != "" {
			if err := os.MkdirAll(filepath.Join(root, "etc/selinux", tt.there, "contexts"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if tt.config != "" {
			if err := os.WriteFile(filepath.Join(root, "etc/selinux/config"), []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := hasPolicy(root, tt.store)
		if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), "selinux-policy-default") {
			t.Errorf("%s: %v, want %v with a remedy", tt.name, err, tt.want)
		}
	}
}
