// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func sizeCases() []check {
	return []check{
		{"truncate.both", func() string {
			with(write("f", "123456"))
			down := seen(unix.Truncate("f", 3), text("f"))
			up := seen(unix.Truncate("f", 6))
			return seen(down, up, fmt.Sprintf("%q", text("f")))
		}},
		{"truncate.errors", func() string {
			with(write("f", ""), os.Mkdir("d", 0o755))
			f := file("f", unix.O_RDONLY)
			defer f.Close()
			return seen(unix.Truncate("f", -1), unix.Truncate("d", 0), unix.Truncate("none", 0),
				unix.Ftruncate(fd(f), 0), user(func() string { return seen(unix.Truncate("f", 0)) }))
		}},
		{"truncate.huge", func() string {
			with(write("f", ""))
			return seen(unix.Truncate("f", 1<<40), lstat("f").Size, unix.Truncate("f", 1<<62))
		}},
		{"fallocate.extend", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(unix.Fallocate(fd(f), 0, 0, 1<<20), lstat("f").Size, lstat("f").Blocks >= 2048)
		}},
		{"fallocate.keep-size", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(unix.Fallocate(fd(f), unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20), lstat("f").Size)
		}},
		{"fallocate.punch-hole", func() string { return reshape(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE) }},
		{"fallocate.zero-range", func() string { return reshape(unix.FALLOC_FL_ZERO_RANGE) }},
		{"fallocate.collapse-range", func() string { return reshape(unix.FALLOC_FL_COLLAPSE_RANGE) }},
		{"fallocate.insert-range", func() string { return reshape(unix.FALLOC_FL_INSERT_RANGE) }},
		{"fallocate.errors", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			r := file("f", unix.O_RDONLY)
			defer r.Close()
			return seen(unix.Fallocate(fd(f), 0, -1, 1), unix.Fallocate(fd(f), 0, 0, 0),
				unix.Fallocate(fd(r), 0, 0, 1), unix.Fallocate(fd(f), unix.FALLOC_FL_PUNCH_HOLE, 0, 1))
		}},
		{"seek.data-hole", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			with(unix.Ftruncate(fd(f), 3<<20))
			_, err := f.WriteAt(bytes.Repeat([]byte("x"), 1<<16), 1<<20)
			with(err, f.Sync())
			data, e1 := unix.Seek(fd(f), 0, unix.SEEK_DATA)
			hole, e2 := unix.Seek(fd(f), data, unix.SEEK_HOLE)
			_, e3 := unix.Seek(fd(f), hole, unix.SEEK_DATA)
			_, e4 := unix.Seek(fd(f), 4<<20, unix.SEEK_HOLE)
			return seen(data, e1, hole, e2, e3, e4)
		}},
		{"sparse.blocks", func() string {
			with(write("f", ""), unix.Truncate("f", 1<<30), write("dense", string(make([]byte, 1<<20))))
			f := file("dense", unix.O_RDONLY)
			defer f.Close()
			return seen(lstat("f").Size, lstat("f").Blocks < 64, f.Sync(), lstat("dense").Blocks >= 2048)
		}},
		{"large.offset", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			_, err := f.WriteAt([]byte("far"), 5<<30)
			buf := make([]byte, 6)
			n, rerr := f.ReadAt(buf, 5<<30-3)
			return seen(err, n, rerr, fmt.Sprintf("%q", buf), lstat("f").Size, lstat("f").Blocks < 64)
		}},
		{"statfs", func() string {
			var st unix.Statfs_t
			err := unix.Statfs(".", &st)
			return seen(err, st.Bsize > 0, st.Blocks > 0, st.Bfree <= st.Blocks, st.Bavail <= st.Bfree, st.Files >= st.Ffree, st.Namelen)
		}},
	}
}

// reshape changes the middle third of a file of three blocks and tells what each block then begins
// with.
func reshape(mode uint32) string {
	const block = 4096
	f := file("f", unix.O_CREAT|unix.O_RDWR)
	defer f.Close()
	for i, b := range []string{"a", "b", "c"} {
		_, err := f.WriteAt(bytes.Repeat([]byte(b), block), int64(i*block))
		with(err)
	}
	err := unix.Fallocate(fd(f), mode, block, block)
	size := lstat("f").Size
	var firsts []byte
	for at := int64(0); at < size; at += block {
		b := make([]byte, 1)
		_, rerr := f.ReadAt(b, at)
		with(rerr)
		firsts = append(firsts, b[0])
	}
	return seen(err, size, fmt.Sprintf("%q", firsts))
}

func spaceCases() []check {
	return []check{
		{"copy-file-range", func() string {
			with(write("a", "0123456789"))
			a, b := file("a", unix.O_RDONLY), file("b", unix.O_CREAT|unix.O_WRONLY)
			defer a.Close()
			defer b.Close()
			from := int64(2)
			n, err := unix.CopyFileRange(fd(a), &from, fd(b), nil, 5, 0)
			return seen(n, err, text("b"))
		}},
		{"sendfile", func() string {
			with(write("a", "0123456789"))
			a, b := file("a", unix.O_RDONLY), file("b", unix.O_CREAT|unix.O_WRONLY)
			defer a.Close()
			defer b.Close()
			n, err := unix.Sendfile(fd(b), fd(a), nil, 100)
			return seen(n, err, text("b"))
		}},
		{"splice", func() string {
			with(write("a", "spliced"))
			a, b := file("a", unix.O_RDONLY), file("b", unix.O_CREAT|unix.O_WRONLY)
			defer a.Close()
			defer b.Close()
			var p [2]int
			with(unix.Pipe(p[:]))
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			n, err := unix.Splice(fd(a), nil, p[1], nil, 100, 0)
			m, werr := unix.Splice(p[0], nil, fd(b), nil, 100, 0)
			return seen(n, err, m, werr, text("b"))
		}},
		{"sync", func() string {
			f, d := file("f", unix.O_CREAT|unix.O_RDWR), file(".", unix.O_RDONLY|unix.O_DIRECTORY)
			defer f.Close()
			defer d.Close()
			_, err := f.WriteString("x")
			return seen(err, unix.Fsync(fd(f)), unix.Fdatasync(fd(f)), unix.Fsync(fd(d)), unix.Syncfs(fd(f)),
				unix.SyncFileRange(fd(f), 0, 1, unix.SYNC_FILE_RANGE_WRITE), unix.Fadvise(fd(f), 0, 0, unix.FADV_DONTNEED))
		}},
		{"vectors", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			n, err := unix.Pwritev(fd(f), [][]byte{[]byte("ab"), []byte("cd")}, 1)
			a, b := make([]byte, 3), make([]byte, 3)
			m, rerr := unix.Preadv(fd(f), [][]byte{a, b}, 0)
			return seen(n, err, m, rerr, fmt.Sprintf("%q", append(a, b...)))
		}},
	}
}

// fullCases are for a small file system that the case may fill.
func fullCases() []check {
	fill := func(name string) (int64, error) {
		f := file(name, unix.O_CREAT|unix.O_WRONLY)
		defer f.Close()
		buf := make([]byte, 1<<16)
		var total int64
		for {
			n, err := f.Write(buf)
			total += int64(n)
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				return total, err
			}
			if total > 1<<30 {
				return total, errors.New("no end")
			}
		}
	}
	return []check{
		{"full.write", func() string {
			total, err := fill("f")
			return seen(total > 4<<20, err, lstat("f").Size >= total)
		}},
		{"full.again", func() string {
			_, err := fill("f")
			rerr := os.Remove("f")
			_, then := fill("g")
			return seen(err, rerr, then)
		}},
		{"full.fallocate", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(unix.Fallocate(fd(f), 0, 0, 1<<30), unix.Fallocate(fd(f), 0, 0, 1<<20))
		}},
		{"full.statfs", func() string {
			_, err := fill("f")
			var st unix.Statfs_t
			serr := unix.Statfs(".", &st)
			return seen(err, serr, st.Bavail*uint64(st.Bsize) < 1<<20, st.Blocks*uint64(st.Bsize) < 64<<20)
		}},
		{"full.mmap", func() string {
			// What is stored through a map must not be lost without a word.
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			with(unix.Ftruncate(fd(f), 4096), unix.Fallocate(fd(f), 0, 0, 4096))
			_, err := fill("g")
			m, merr := unix.Mmap(fd(f), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			with(merr)
			defer unmap(m)
			copy(m, "kept")
			serr := unix.Msync(m, unix.MS_SYNC)
			got := make([]byte, 4)
			_, rerr := f.ReadAt(got, 0)
			if errors.Is(rerr, io.EOF) {
				rerr = nil
			}
			return seen(err, serr, rerr, string(got))
		}},
	}
}
