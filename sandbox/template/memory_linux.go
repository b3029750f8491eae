// SPDX-License-Identifier: Apache-2.0

package template

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// NewMemory makes a file for the memory of a machine, all zeroes. It has no name in any file system
// and costs nothing until it is written to. Both QEMU and virtiofsd map it shared, as vhost-user
// needs. It is the caller's to close.
func NewMemory(mib int) (*os.File, error) {
	fd, err := unix.MemfdCreate("guest-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make guest memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "guest-memory")
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return nil, errors.Join(fmt.Errorf("make guest memory of %d MiB: %w", mib, err), f.Close())
	}
	return f, nil
}

// chunk is read at once.
const chunk = 1 << 20

// joinBytes is the longest run of zeroes that is kept between two extents: each extent costs a call
// when it is copied. 16 KiB of zeroes in the file are cheaper than a call.
const joinBytes = 4 * pageBytes

// gather writes what is not zero of a memory file to another, and gives where it was. Pages that
// the guest has given back are holes and are not read; those that it has zeroed are read and left
// out. The order is that of the memory.
func gather(memory *os.File, to io.Writer) (all []Extent, err error) {
	buf := make([]byte, chunk)
	data, hole, err := nextData(memory, 0)
	for ; err == nil && data >= 0; data, hole, err = nextData(memory, hole) {
		for pos := data; pos < hole; pos += chunk {
			part := buf[:min(chunk, hole-pos)]
			if _, err := memory.ReadAt(part, pos); err != nil {
				return nil, fmt.Errorf("read guest memory: %w", err)
			}
			for _, e := range dataIn(part) {
				if _, err := to.Write(part[e.Offset : e.Offset+e.Bytes]); err != nil {
					return nil, fmt.Errorf("keep guest memory: %w", err)
				}
				all = appendExtent(all, Extent{pos + e.Offset, e.Bytes})
			}
		}
	}
	return all, err
}

// nextData finds the next part of a sparse file that is no hole; -1 for none. ENXIO is the kernel's
// word for "no data from here on".
func nextData(f *os.File, pos int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return -1, -1, nil
	}
	if err == nil {
		hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find data of guest memory: %w", err)
	}
	return data, hole, nil
}

// dataIn gives the parts of whole pages that are not zero, joined where few zeroes are between
// them. len(pages) is a multiple of the page size.
func dataIn(pages []byte) (parts []Extent) {
	zero := make([]byte, pageBytes)
	for at := 0; at < len(pages); at += pageBytes {
		if bytes.Equal(pages[at:at+pageBytes], zero) {
			continue
		}
		start := int64(at)
		if last := len(parts) - 1; last >= 0 && start-(parts[last].Offset+parts[last].Bytes) <= joinBytes {
			parts[last].Bytes = start + pageBytes - parts[last].Offset
			continue
		}
		parts = append(parts, Extent{start, pageBytes})
	}
	return parts
}

// appendExtent adds an extent, or makes the last one longer where it goes on in the next chunk.
func appendExtent(all []Extent, e Extent) []Extent {
	if last := len(all) - 1; last >= 0 && all[last].Offset+all[last].Bytes == e.Offset {
		all[last].Bytes += e.Bytes
		return all
	}
	return append(all, e)
}

// Fill puts the extents' bytes of a template's memory where they were, in a file of NewMemory's.
// The extents must be a checked manifest's. The caller chooses who runs it: pages are charged to
// the cgroup of this process.
func Fill(to, from *os.File, extents []Extent) error {
	size := int64(0)
	for _, e := range extents {
		size += e.Bytes
	}
	if size == 0 {
		return nil
	}
	info, err := from.Stat()
	if err != nil {
		return fmt.Errorf("copy guest memory: %w", err)
	}
	if info.Size() != size { // a mapping of what is not there ends the process
		return fmt.Errorf("%w: memory of %d bytes, want %d", ErrDamaged, info.Size(), size)
	}
	// Writes from a mapping: a copy between two mappings took two to three times as long.
	data, err := unix.Mmap(int(from.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("copy guest memory: %w", err)
	}
	defer func() { _ = unix.Munmap(data) }()
	rest := data
	for _, e := range extents {
		if _, err := to.WriteAt(rest[:e.Bytes], e.Offset); err != nil { // a page that cannot be read is EFAULT
			return fmt.Errorf("copy guest memory: %w", err)
		}
		rest = rest[e.Bytes:]
	}
	return nil
}
