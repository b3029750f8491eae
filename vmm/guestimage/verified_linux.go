// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// maxVerified bounds the file that VerifyOnce keeps.
const maxVerified = 4 << 10

// verified is what one file was when its digest was right. The kernel changes its ctime with every
// write, and nobody can set it. An mtime alone can be put back by who writes.
type verified struct {
	Dev    uint64 `json:"dev"`
	Inode  uint64 `json:"inode"`
	Bytes  int64  `json:"bytes"`
	MTime  int64  `json:"mtime"` // nanoseconds
	CTime  int64  `json:"ctime"`
	SHA256 string `json:"sha256"`
}

// VerifyOnce checks that nobody but root could have written kernel, initial image, manifest
// and the folders above them, and that the digests are right. Digests that were right are kept
// in the file at cache, with what tells that a file is still the same one, so that only the
// first start after a change reads the files: 35 MiB take tens of milliseconds. A cache that
// cannot be written costs that each time and is no error.
func (i *Image) VerifyOnce(cache string) error {
	for _, name := range []string{ManifestName, KernelName, InitrdName} {
		if err := sys.Trusted(filepath.Join(i.Dir, name)); err != nil {
			return fmt.Errorf("guest image: %w", err)
		}
	}
	now, err := i.look()
	if err != nil {
		return err
	}
	if was, err := readVerified(cache); err == nil && was == now {
		return nil
	}
	if err := i.Verify(); err != nil {
		return err
	}
	// What was read is what was looked at before: a change meanwhile makes the next look differ.
	_ = writeVerified(cache, now)
	return nil
}

// look describes kernel and initial image as they are, with the digests that they must have. With a
// new manifest the digests differ, and the files are read again.
func (i *Image) look() (out [2]verified, err error) {
	for n, file := range []struct{ name, sum string }{{i.Kernel(), i.Manifest.Kernel.SHA256}, {i.Initrd(), i.Manifest.Initrd.SHA256}} {
		var st unix.Stat_t
		if err := unix.Stat(file.name, &st); err != nil {
			return out, fmt.Errorf("%w: %s: %w", ErrDamaged, file.name, err)
		}
		out[n] = verified{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano(), file.sum}
	}
	return out, nil
}

// readVerified reads the cache. What cannot be read counts as nothing: the files are read again.
func readVerified(cache string) (out [2]verified, err error) {
	data, err := readBounded(cache, maxVerified)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(data, &out)
}

// writeVerified replaces the file at once: other sandboxes read it meanwhile. It is not synced, as
// it can be made anew.
func writeVerified(cache string, v [2]verified) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(cache), filepath.Base(cache)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), cache)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}

// ignoreMissing drops the error of removing what is not there.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
