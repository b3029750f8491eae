// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

func sampleTree() tree {
	t := tree{}
	t.file("/usr/bin/crun", 0o755, []byte("program"))
	t.file("init", 0o755, bytes.Repeat([]byte("agent "), 1000))
	t.link("lib", "usr/lib")
	t.dir("tmp", 0o1777)
	t.file("etc/passwd", 0o644, nil)
	return t
}

func TestArchive(t *testing.T) {
	var raw bytes.Buffer
	if err := sampleTree().archive(&raw); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(raw.Bytes()))})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: uid %d, gid %d, time %d, want zeros", r.Name, r.UID, r.GID, r.MTime)
		}
	}
	want := []string{"etc", "etc/passwd", "init", "lib", "tmp", "usr", "usr/bin", "usr/bin/crun"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names: -want +got\n%s", diff)
	}
	link := make([]byte, 16)
	n, err := records[3].ReadAt(link, 0)
	if got := string(link[:n]); got != "usr/lib" || records[3].Mode != cpio.S_IFLNK|0o777 {
		t.Errorf("link = %q mode %o (%v), want usr/lib", got, records[3].Mode, err)
	}
	if records[4].Mode != cpio.S_IFDIR|0o1777 {
		t.Errorf("tmp has mode %o", records[4].Mode)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	var packed [2][]byte
	for i := range packed {
		var raw bytes.Buffer
		if err := sampleTree().archive(&raw); err != nil {
			t.Fatal(err)
		}
		var err error
		if packed[i], err = compress(raw.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("two archives of one tree differ")
	}
	if got, how, err := pack(packed[0], len(packed[0])); err != nil || how != "none" || !bytes.Equal(got, packed[0]) {
		t.Errorf("pack within the limit = %d bytes, %q, %v, want it left alone", len(got), how, err)
	}
	if _, how, err := pack(bytes.Repeat([]byte("x"), 1000), 100); err != nil || how != "zstd" {
		t.Errorf("pack beyond the limit = %q, %v, want zstd", how, err)
	}
	if _, _, err := pack(packed[0], 10); err == nil {
		t.Error("pack of what does not compress below the limit gave no error")
	}
	z, err := zstd.NewReader(bytes.NewReader(packed[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if _, err := io.Copy(io.Discard, z); err != nil {
		t.Errorf("unpack: %v", err)
	}
}
