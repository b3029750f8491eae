// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Entry is one name of a layer. Mode's type bits say what it is: a folder, a symbolic link to Link,
// or a file with Data; a file with Hard is another name of that earlier entry.
type Entry struct {
	Name   string
	Mode   fs.FileMode
	UID    int
	GID    int
	Data   []byte
	Link   string
	Hard   string
	Xattrs map[string]string
}

// Layer makes a layer of entries in their order.
func Layer(entries []Entry) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(e.header()); err != nil {
			return nil, fmt.Errorf("entry %q: %w", e.Name, err)
		}
		if _, err := w.Write(e.Data); err != nil {
			return nil, fmt.Errorf("entry %q: %w", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
}

func (e Entry) header() *tar.Header {
	h := &tar.Header{Name: strings.TrimPrefix(e.Name, "/"), Mode: int64(e.Mode.Perm()), Uid: e.UID, Gid: e.GID, Format: tar.FormatPAX}
	if e.Mode&fs.ModeSetuid != 0 {
		h.Mode |= 0o4000
	}
	if e.Mode&fs.ModeSetgid != 0 {
		h.Mode |= 0o2000
	}
	if e.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.Hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(e.Hard, "/")
	case e.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case e.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.Data))
	}
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	return h
}

// folders gives an entry for each name, mode 0755.
func folders(names ...string) []Entry {
	var entries []Entry
	for _, name := range names {
		entries = append(entries, Entry{Name: name, Mode: fs.ModeDir | 0o755})
	}
	return entries
}
