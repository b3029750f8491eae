// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// TestTrusted: root obeys only what root alone could have written.
func TestTrusted(t *testing.T) {
	testenv.NeedRoot(t)
	const somebody = 65534
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		names  string // what the error must name; empty for none
	}{
		{"as made", func(string) error { return nil }, ""},
		{"somebody's file", func(d string) error { return os.Chown(d+"/c/config.toml", somebody, 0) }, "/c/config.toml"},
		{"somebody's folder", func(d string) error { return os.Chown(d+"/c", somebody, 0) }, "/c"},
		{"file that others write", func(d string) error { return os.Chmod(d+"/c/config.toml", 0o666) }, "/c/config.toml"},
		{"file that a group writes", func(d string) error {
			return errors.Join(os.Chown(d+"/c/config.toml", 0, somebody), os.Chmod(d+"/c/config.toml", 0o664))
		}, "/c/config.toml"},
		{"file that root's group writes", func(d string) error { return os.Chmod(d+"/c/config.toml", 0o664) }, ""},
		{"folder that others write", func(d string) error { return os.Chmod(d+"/c", 0o777) }, "/c"},
		{"sticky folder", func(d string) error { return os.Chmod(d+"/c", 0o777|os.ModeSticky) }, ""},
		{"drop-in that others write", func(d string) error { return os.Chmod(d+"/c/config.d/10.toml", 0o666) }, "10.toml"},
		{"folder of drop-ins that others write", func(d string) error { return os.Chmod(d+"/c/config.d", 0o777) }, "config.d"},
		{"state that others write", func(d string) error { return os.Chmod(d+"/state", 0o777) }, "/state"},
		{"somebody's state", func(d string) error { return os.Chown(d+"/state", somebody, 0) }, "/state"},
		{"somebody's root", func(d string) error { return os.Chown(d+"/root", somebody, 0) }, "/root"},
		{"state that is not there", func(d string) error { return os.Remove(d + "/state") }, ""},
		{"link to somebody's folder", func(d string) error {
			return errors.Join(os.Mkdir(d+"/s", 0o755), os.Chown(d+"/s", somebody, 0), os.Remove(d+"/state"), os.Symlink("s/x", d+"/state"))
		}, "/s"},
		{"somebody's link", func(d string) error {
			return errors.Join(os.Mkdir(d+"/s", 0o755), os.Remove(d+"/state"), os.Symlink("s", d+"/state"),
				os.Lchown(d+"/state", somebody, 0))
		}, "/state"},
		{"a folder that .. leads out of", func(d string) error {
			return errors.Join(os.MkdirAll(d+"/s/a/b", 0o755), os.Chown(d+"/s", somebody, 0),
				os.Remove(d+"/state"), os.Mkdir(d+"/x", 0o755),
				os.Symlink(d+"/s/a/b", d+"/x/link"), os.Symlink("x/link/../state", d+"/state"))
		}, "/s"},
		{"root's link", func(d string) error {
			return errors.Join(os.Mkdir(d+"/s", 0o755), os.Remove(d+"/state"), os.Symlink("s", d+"/state"))
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			main := write(t, filepath.Join(dir, "c", "config.toml"), fmt.Sprintf("state = %q\nroot = %q\n", dir+"/state", dir+"/root"))
			write(t, filepath.Join(dir, "c", "config.d", "10.toml"), "")
			if err := errors.Join(os.Mkdir(dir+"/state", 0o755), os.Mkdir(dir+"/root", 0o755), tt.change(dir)); err != nil {
				t.Fatal(err)
			}
			_, err := Load(main)
			if tt.names == "" {
				if err != nil {
					t.Errorf("Load: %v", err)
				}
				return
			}
			if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), tt.names) ||
				!strings.Contains(err.Error(), "chown root:root") {
				t.Errorf("Load = %v, want a refusal that names %s and the remedy", err, tt.names)
			}
			if _, _, err := Folders(main); !errors.Is(err, errdefs.ErrPermissionDenied) {
				t.Errorf("Folders = %v, want a refusal", err)
			}
		})
	}
}
