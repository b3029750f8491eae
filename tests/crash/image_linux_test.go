// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"cloister/tests/testenv"
	"cloister/vmm/guestimage"
)

// The test guest is built once; the error is of that build.
var guestBinary = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", name, "cloister/tests/crash/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return out, err
	}
	return os.ReadFile(name)
})

// image is the guest image of the build, copied to dir, to be spoiled by a test.
type image struct {
	dir      string
	manifest guestimage.Manifest
}

func copyImage(t *testing.T, dir string) *image {
	t.Helper()
	from, err := guestimage.Open(testenv.NeedGuest(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	i := &image{dir: dir, manifest: from.Manifest}
	for _, name := range []string{guestimage.KernelName, guestimage.InitrdName} {
		data, err := os.ReadFile(filepath.Join(from.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		i.put(t, name, data)
	}
	i.seal(t)
	return i
}

func (i *image) put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// seal has the manifest say what the files are.
func (i *image) seal(t *testing.T) {
	t.Helper()
	for name, into := range map[string]struct {
		sum   *string
		bytes *int64
	}{
		guestimage.KernelName: {&i.manifest.Kernel.SHA256, &i.manifest.Kernel.Bytes},
		guestimage.InitrdName: {&i.manifest.Initrd.SHA256, &i.manifest.Initrd.Bytes},
	} {
		data, err := os.ReadFile(filepath.Join(i.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		*into.sum, *into.bytes = hex.EncodeToString(sum[:]), int64(len(data))
	}
	data, err := json.Marshal(i.manifest)
	if err != nil {
		t.Fatal(err)
	}
	i.put(t, guestimage.ManifestName, data)
}

// hostile gives the image the test guest for its first process.
func (i *image) hostile(t *testing.T, mode string) {
	t.Helper()
	if i.manifest.Flavour != guestimage.Small {
		t.Skip("the test guest loads no modules: it needs the small kernel")
	}
	program, err := guestBinary()
	if err != nil {
		t.Fatalf("build the test guest: %v\n%s", err, program)
	}
	i.initrd(t, program, []byte(mode))
}

// initrd replaces the initial image by one with a program and its mode.
func (i *image) initrd(t *testing.T, program, mode []byte) {
	t.Helper()
	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	for n, r := range []cpio.Record{
		{Info: cpio.Info{Name: "dev", Mode: cpio.S_IFDIR | 0o755, NLink: 2}},
		cpio.StaticRecord(program, cpio.Info{Name: "init", Mode: cpio.S_IFREG | 0o755, NLink: 1}),
		cpio.StaticRecord(mode, cpio.Info{Name: "mode", Mode: cpio.S_IFREG | 0o644, NLink: 1}),
	} {
		r.Ino = uint64(n + 1)
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	i.put(t, guestimage.InitrdName, out.Bytes())
	i.seal(t)
}
