// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// zstdWindow bounds what the guest's kernel sets aside to decompress, in bytes.
const zstdWindow = 4 << 20

// tree is a file system to be archived, by clean path without leading slash. Owners are root and
// times are zero, so that the same content gives the same archive.
type tree map[string]node

type node struct {
	// mode is type and permissions as in stat(2).
	mode uint64
	// data is a file's content or a link's target.
	data []byte
}

// dir adds a folder; a later node of the same name replaces an earlier one.
func (t tree) dir(name string, perm uint64) { t[clean(name)] = node{mode: cpio.S_IFDIR | perm} }

func (t tree) file(name string, perm uint64, data []byte) {
	t[clean(name)] = node{mode: cpio.S_IFREG | perm, data: data}
}

func (t tree) link(name, target string) {
	t[clean(name)] = node{mode: cpio.S_IFLNK | 0o777, data: []byte(target)}
}

// clean is a name as the archive has it.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// parents adds the folders that files need and nobody named.
func (t tree) parents() {
	for _, name := range slices.Collect(maps.Keys(t)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok {
				t.dir(dir, 0o755)
			}
		}
	}
}

// archive writes the tree as a cpio archive in the kernel's newc form, sorted,
// so that folders come before what is in them.
func (t tree) archive(w io.Writer) error {
	t.parents()
	out := cpio.Newc.Writer(w)
	for i, name := range slices.Sorted(maps.Keys(t)) {
		n := t[name]
		info := cpio.Info{Name: name, Ino: uint64(i + 1), Mode: n.mode, NLink: 1}
		record := cpio.Record{Info: info}
		if n.mode&cpio.S_IFMT != cpio.S_IFDIR {
			record = cpio.StaticRecord(n.data, info)
		}
		if err := out.WriteRecord(record); err != nil {
			return fmt.Errorf("archive %q: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// pack leaves an archive as it is when it is not beyond limit: an emulated guest takes a fifth of
// its boot to decompress it. Otherwise it compresses. limit is in bytes; an archive that is larger
// when compressed is an error. The second value is the compression's name in the manifest.
func pack(raw []byte, limit int) ([]byte, string, error) {
	if len(raw) <= limit {
		return raw, "none", nil
	}
	packed, err := compress(raw)
	if err != nil {
		return nil, "", err
	}
	if len(packed) > limit {
		return nil, "", fmt.Errorf("initial image: %d bytes compressed, at most %d allowed", len(packed), limit)
	}
	return packed, "zstd", nil
}

// compress packs with zstd. One thread and a fixed level give the same bytes
// everywhere.
func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if _, err := z.Write(data); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return b.Bytes(), nil
}
