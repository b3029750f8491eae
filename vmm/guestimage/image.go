// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrDamaged is wrapped by errors about files that are not what the manifest says. QEMU would boot
// a damaged kernel, and the start would fail a minute later with a guest that says nothing.
var ErrDamaged = errors.New("guest image is damaged")

// Image is one guest image on disk: a folder with kernel, initial image and
// manifest. It is a value: nothing is held open.
type Image struct {
	// Dir is the image's folder, absolute.
	Dir string
	// Manifest says what is in it.
	Manifest Manifest
}

// Open reads the image in dir. It checks that the manifest is good and that the files it names are
// there in the right size; Verify checks their content. Every error names the command that builds
// this image.
func Open(dir string) (*Image, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("guest image: %w", err)
	}
	data, err := readBounded(filepath.Join(dir, ManifestName), maxManifest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("guest image %q: %w", dir, err)
	}
	if err != nil {
		return nil, rebuild(dir, err)
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, rebuild(dir, err)
	}
	i := &Image{Dir: dir, Manifest: m}
	if err := errors.Join(checkSize(i.Kernel(), m.Kernel.Bytes), checkSize(i.Initrd(), m.Initrd.Bytes)); err != nil {
		return nil, rebuild(dir, err)
	}
	return i, nil
}

// Kernel is the absolute path of the kernel.
func (i *Image) Kernel() string { return filepath.Join(i.Dir, KernelName) }

// Initrd is the absolute path of the initial image.
func (i *Image) Initrd() string { return filepath.Join(i.Dir, InitrdName) }

// Verify reads kernel and initial image and compares their SHA-256 with the manifest's. It takes
// tens of milliseconds. It finds damage, not an attacker: who can write the files can write the
// manifest too, which is why VerifyOnce asks who can.
func (i *Image) Verify() error {
	err := errors.Join(
		checkSum(i.Kernel(), i.Manifest.Kernel.SHA256),
		checkSum(i.Initrd(), i.Manifest.Initrd.SHA256),
	)
	if err != nil {
		return rebuild(i.Dir, err)
	}
	return nil
}

// rebuild adds to what is wrong with an image the command that builds this very one. Its flavour
// is the folder's name, as where make install puts it.
func rebuild(dir string, err error) error {
	command := "cloister guest build"
	if f, unknown := ParseFlavour(filepath.Base(dir)); unknown == nil {
		command += " --kernel=" + string(f)
	}
	return fmt.Errorf("guest image %q: %w: build it with `%s --output=%s`", dir, err, command, dir)
}

// checkSize is the quick look: a build that was cut off, or a file that was exchanged.
func checkSize(path string, want int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !st.Mode().IsRegular() || st.Size() != want {
		return fmt.Errorf("%w: %s has %d bytes, want %d", ErrDamaged, path, st.Size(), want)
	}
	return nil
}

// checkSum reads the whole file.
func checkSum(path, want string) error {
	got, err := fileSum(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got != want {
		return fmt.Errorf("%w: %s has SHA-256 %s, want %s", ErrDamaged, path, got, want)
	}
	return nil
}
