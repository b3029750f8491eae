// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// DiskIO is what a sandbox's processes have read from and written to one disk of the host. The
// counts are totals since the leaf was made, in bytes and calls.
type DiskIO struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// DiskIO lists the disks that the leaf's processes have used; none where the host does not count. A
// guest's own counters are of no use here: it reads files through the file server, and counts
// nothing. An error means that the kernel's text was not understood, not that a disk failed.
func (g *Group) DiskIO() ([]DiskIO, error) {
	if h, ok := g.unified("io"); ok {
		text, err := g.stat(h, "io.stat")
		if err != nil {
			return nil, err
		}
		return parseIO(text)
	}
	h, ok := g.v1("blkio")
	if !ok {
		return nil, nil
	}
	// The throttle files count every request; blkio.io_service_bytes without "throttle" counts
	// those of one scheduler alone.
	bytes, err := g.stat(h, "blkio.throttle.io_service_bytes")
	if err != nil {
		return nil, err
	}
	calls, err := g.stat(h, "blkio.throttle.io_serviced")
	if err != nil {
		return nil, err
	}
	return parseIOv1(bytes, calls)
}

// stat reads a file of the leaf. One that does not exist is empty: a v2 group has io.stat only
// where the controller is delegated.
func (g *Group) stat(h hierarchy, file string) (string, error) {
	text, err := g.files.read(path.Join(h.mount, g.leaf, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return text, err
}

// parseIO reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0". Fields that are not
// known, such as those of discards, are passed over: kernels add some.
func parseIO(text string) ([]DiskIO, error) {
	var out []DiskIO
	for line := range strings.Lines(text) {
		number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		d, err := disk(number)
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(field, "=")
			to := map[string]*uint64{"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "rios": &d.Reads, "wios": &d.Writes}[key]
			if to == nil {
				continue
			}
			if *to, err = strconv.ParseUint(value, 10, 64); err != nil {
				return nil, fmt.Errorf("io.stat: %q: %w", line, err)
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// parseIOv1 reads two files with lines as "8:0 Read 4096". Both files are folded into one list, in
// the order in which the disks appear.
func parseIOv1(bytes, calls string) ([]DiskIO, error) {
	var out []DiskIO
	add := func(text string, read, write func(*DiskIO) *uint64) error {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 || fields[1] != "Read" && fields[1] != "Write" {
				continue // Sync, Async, Discard, Total: the same once more
			}
			d, n, err := blkio(fields)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(out, func(o DiskIO) bool { return o.Major == d.Major && o.Minor == d.Minor })
			if i < 0 {
				i, out = len(out), append(out, d)
			}
			to := read
			if fields[1] == "Write" {
				to = write
			}
			*to(&out[i]) = n
		}
		return nil
	}
	if err := add(bytes, func(d *DiskIO) *uint64 { return &d.ReadBytes }, func(d *DiskIO) *uint64 { return &d.WriteBytes }); err != nil {
		return nil, err
	}
	return out, add(calls, func(d *DiskIO) *uint64 { return &d.Reads }, func(d *DiskIO) *uint64 { return &d.Writes })
}

// blkio reads the disk and the number of a line's three fields.
func blkio(fields []string) (DiskIO, uint64, error) {
	d, err := disk(fields[0])
	if err != nil {
		return d, 0, err
	}
	n, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return d, 0, fmt.Errorf("blkio: %q: %w", fields, err)
	}
	return d, n, nil
}

// disk reads MAJOR:MINOR.
func disk(number string) (d DiskIO, err error) {
	if _, err := fmt.Sscanf(number, "%d:%d", &d.Major, &d.Minor); err != nil {
		return d, fmt.Errorf("disk %q: %w", number, err)
	}
	return d, nil
}
