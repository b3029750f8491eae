// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// smallImage writes an image whose kernel and initial image are a few bytes.
func smallImage(t *testing.T) *Image {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := func(text string) string { s := sha256.Sum256([]byte(text)); return hex.EncodeToString(s[:]) }
	m := goodManifest()
	m.Flavour = Small
	m.Kernel.Bytes, m.Kernel.SHA256 = 6, sum("kernel")
	m.Initrd.Bytes, m.Initrd.SHA256 = 6, sum("initrd")
	manifest, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{KernelName: "kernel", InitrdName: "initrd", ManifestName: string(manifest)})
	i, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestVerifyOnceFindsDamage: what root alone has written is checked by its digests, also when size
// and time are as before, and what others could have written is refused.
func TestVerifyOnceFindsDamage(t *testing.T) {
	testenv.NeedRoot(t)
	const somebody = 65534
	for _, tt := range []struct {
		name   string
		change func(i *Image) error
		want   error
		says   []string
	}{
		{"nothing", func(*Image) error { return nil }, nil, nil},
		{"a damaged kernel of the same size and time", func(i *Image) error {
			st, err := os.Stat(i.Kernel())
			return errors.Join(err, os.WriteFile(i.Kernel(), []byte("kernes"), 0o644), os.Chtimes(i.Kernel(), time.Now(), st.ModTime()))
		}, ErrDamaged, []string{KernelName, "cloister guest build --kernel=small --output="}},
		{
			"a damaged initial image", func(i *Image) error { return os.WriteFile(i.Initrd(), []byte("initre"), 0o644) },
			ErrDamaged,
			[]string{InitrdName},
		},
		{"another kernel in its place", func(i *Image) error {
			return errors.Join(os.WriteFile(i.Kernel()+".new", []byte("kernes"), 0o644), os.Rename(i.Kernel()+".new", i.Kernel()))
		}, ErrDamaged, []string{KernelName}},
		{
			"somebody's kernel", func(i *Image) error { return os.Chown(i.Kernel(), somebody, 0) },
			errdefs.ErrPermissionDenied,
			[]string{KernelName, "chown root:root"},
		},
		{
			"an initial image that others write", func(i *Image) error { return os.Chmod(i.Initrd(), 0o666) },
			errdefs.ErrPermissionDenied,
			[]string{InitrdName, "chmod go-w"},
		},
		{
			"a folder that others write", func(i *Image) error { return os.Chmod(i.Dir, 0o777) },
			errdefs.ErrPermissionDenied,
			[]string{"chmod go-w"},
		},
		{
			"somebody's manifest", func(i *Image) error { return os.Chown(filepath.Join(i.Dir, ManifestName), somebody, 0) },
			errdefs.ErrPermissionDenied,
			[]string{ManifestName},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i, cache := smallImage(t), filepath.Join(t.TempDir(), "verified.json")
			if err := i.VerifyOnce(cache); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(cache); err != nil {
				t.Errorf("nothing is remembered: %v", err)
			}
			if err := tt.change(i); err != nil {
				t.Fatal(err)
			}
			err := i.VerifyOnce(cache)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Fatalf("VerifyOnce = %v, want %v", err, tt.want)
			}
			for _, says := range tt.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("VerifyOnce = %v, want it to say %q", err, says)
				}
			}
		})
	}
}

// TestVerifyOnceReadsOnce: a file that is as it was when its digest was right is not read again,
// and a cache that says nothing, nonsense or cannot be written only costs the reading.
func TestVerifyOnceReadsOnce(t *testing.T) {
	testenv.NeedRoot(t)
	i, cache := smallImage(t), filepath.Join(t.TempDir(), "verified.json")
	if err := os.WriteFile(i.Kernel(), []byte("kernes"), 0o644); err != nil {
		t.Fatal(err)
	}
	now, err := i.look()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeVerified(cache, now); err != nil {
		t.Fatal(err)
	}
	if err := i.VerifyOnce(cache); err != nil {
		t.Errorf("VerifyOnce reads a file that is remembered as right: %v", err)
	}
	if err := os.WriteFile(cache, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.VerifyOnce(cache); !errors.Is(err, ErrDamaged) {
		t.Errorf("VerifyOnce with nonsense remembered = %v, want %v", err, ErrDamaged)
	}
	if err := smallImage(t).VerifyOnce("/proc/none/verified.json"); err != nil {
		t.Errorf("VerifyOnce with nowhere to remember = %v, want nil", err)
	}
}
