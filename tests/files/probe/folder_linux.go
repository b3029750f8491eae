// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// entriesEnv is how many names the case of a large folder makes.
const entriesEnv = "PROBE_ENTRIES"

func folderCases() []check {
	return []check{
		{"mkdir.errors", func() string {
			with(write("f", ""))
			return seen(unix.Mkdir("d", 0o755), unix.Mkdir("d", 0o755), unix.Mkdir("f", 0o755),
				unix.Mkdir("none/d", 0o755), unix.Mkdir("f/d", 0o755))
		}},
		{"mkdir.mode", func() string {
			with(unix.Mkdir("a", 0o777), unix.Mkdir("b", 0o700), unix.Mkdir("c", 0o1777))
			return seen(mode("a"), mode("b"), mode("c"))
		}},
		{"mkdir.deep", func() string {
			deep := strings.Repeat("d/", 60)
			return seen(os.MkdirAll(deep, 0o755), write(deep+"f", "x"), text(deep+"f"))
		}},
		{"rmdir.errors", func() string {
			with(os.MkdirAll("full/sub", 0o755), write("f", ""), os.Symlink("full", "link"))
			return seen(unix.Rmdir("full"), unix.Rmdir("f"), unix.Rmdir("none"), unix.Rmdir("full/."),
				unix.Rmdir("link"), unix.Rmdir("full/sub"), unix.Rmdir("full"))
		}},
		{"rmdir.open", func() string {
			with(os.Mkdir("d", 0o755))
			d := file("d", unix.O_RDONLY|unix.O_DIRECTORY)
			defer d.Close()
			err := unix.Rmdir("d")
			names, rerr := d.Readdirnames(-1)
			_, oerr := unix.Openat(fd(d), "new", unix.O_CREAT|unix.O_WRONLY, 0o644)
			return seen(err, len(names), rerr, oerr)
		}},
		{"unlink.errors", func() string {
			with(os.Mkdir("d", 0o755), write("f", ""))
			return seen(unix.Unlink("d"), unix.Unlink("none"), unix.Unlink("f/"), unix.Unlink("f"), unix.Unlink("f"))
		}},
		{"unlink.open", func() string {
			with(write("f", "before"))
			f := file("f", unix.O_RDWR)
			defer f.Close()
			err := unix.Unlink("f")
			_, werr := f.WriteAt([]byte("after!"), 0)
			data, rerr := io.ReadAll(io.NewSectionReader(f, 0, 100))
			var st unix.Stat_t
			serr := unix.Fstat(fd(f), &st)
			with(write("f", "another"))
			return seen(err, werr, rerr, string(data), serr, st.Nlink, st.Size, unix.Ftruncate(fd(f), 3),
				unix.Fchmod(fd(f), 0o600), text("f"))
		}},
		{"unlink.denied", func() string {
			with(write("f", ""), os.Mkdir("d", 0o777), os.Chmod("d", 0o777), write("d/f", ""))
			return user(func() string { return seen(unix.Unlink("f"), unix.Unlink("d/f")) })
		}},
		{"folder.links", func() string {
			with(os.MkdirAll("d/a", 0o755), os.Mkdir("d/b", 0o755))
			return seen(lstat("d").Nlink)
		}},
		{"folder.kinds", folderKinds},
		{"folder.many", folderMany},
		{"folder.delete-while-read", folderDelete},
		{"folder.rewind", func() string {
			with(write("a", ""))
			d := file(".", unix.O_RDONLY|unix.O_DIRECTORY)
			defer d.Close()
			first, e1 := d.Readdirnames(-1)
			with(write("b", ""))
			_, e2 := d.Seek(0, io.SeekStart)
			then, e3 := d.Readdirnames(-1)
			return seen(len(first), e1, e2, len(then), e3)
		}},
		{"folder.removed-cwd", func() string {
			with(os.Mkdir("d", 0o755), os.Chdir("d"), os.Remove("../d"))
			_, err := unix.Getcwd(make([]byte, 4096))
			return seen(err, write("f", ""), open("..", unix.O_DIRECTORY))
		}},
	}
}

// entry is one name as the kernel gives it.
type entry struct {
	name string
	kind byte
}

// entries reads a folder with the kind that each name comes with.
func entries(name string) ([]entry, error) {
	d := file(name, unix.O_RDONLY|unix.O_DIRECTORY)
	defer d.Close()
	var list []entry
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Getdents(fd(d), buf)
		if n <= 0 || err != nil {
			return list, err
		}
		for b := buf[:n]; len(b) > 0; {
			size := int(b[16]) | int(b[17])<<8 // struct linux_dirent64: inode, offset, size of the record, kind, name
			text, _, _ := bytes.Cut(b[19:size], []byte{0})
			if s := string(text); s != "." && s != ".." {
				list = append(list, entry{s, b[18]})
			}
			b = b[size:]
		}
	}
}

func folderKinds() string {
	with(write("file", ""), os.Mkdir("folder", 0o755), os.Symlink("x", "link"), unix.Mkfifo("fifo", 0o644),
		unix.Mknod("null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod("socket", unix.S_IFSOCK|0o644, 0))
	list, err := entries(".")
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	words := []any{err}
	for _, e := range list {
		words = append(words, fmt.Sprintf("%s=%d", e.name, e.kind))
	}
	return seen(words...)
}

func folderMany() string {
	count, err := strconv.Atoi(os.Getenv(entriesEnv))
	if err != nil {
		count = 300
	}
	for i := range count {
		if err := unix.Mknod(fmt.Sprintf("entry-%d", i), unix.S_IFREG|0o644, 0); err != nil {
			return seen("made", i, err)
		}
	}
	list, err := entries(".")
	found := map[string]bool{}
	files := 0
	for _, e := range list {
		found[e.name] = true
		if e.kind == unix.DT_REG {
			files++
		}
	}
	rerr := os.RemoveAll("../" + filepath.Base(cwd()))
	return seen(err, "all", len(list) == count, "once", len(found) == count, "kinds", files == count, rerr)
}

func cwd() string {
	dir, err := os.Getwd()
	with(err)
	return dir
}

// folderDelete deletes what a program has read of a folder while it goes on reading, as rm -r does.
func folderDelete() string {
	const count = 150
	for i := range count {
		with(write(fmt.Sprintf("entry-with-a-long-name-%d", i), ""))
	}
	d := file(".", unix.O_RDONLY|unix.O_DIRECTORY)
	defer d.Close()
	read := 0
	for {
		names, err := d.Readdirnames(50)
		for _, n := range names {
			read++
			if err := unix.Unlink(n); err != nil {
				return seen(err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return seen(err)
		}
	}
	left, err := os.ReadDir(".")
	return seen(read, err, len(left))
}

func nameCases() []check {
	return []check{
		{"name.length", func() string {
			n := strings.Repeat("n", 255)
			return seen(write(n, "x"), text(n), write(n+"n", ""), unix.Mkdir(n+"n", 0o755), unix.Symlink("x", n+"n"))
		}},
		{"name.path-length", func() string {
			long := strings.Repeat("./", 2046) + "f" // 4093
			return seen(write(long, "x"), text(long), write("./"+long, ""), text("f"))
		}},
		{"name.bytes", func() string {
			// What folders give back is what was written, byte for byte.
			names := []string{
				"new\nline", "\xff\xfe not utf-8", " ", "back\\slash", "quote\"'", "\x01",
				"über", "u\u0308ber", "Case", "case", "a:b", "...", "*",
			}
			for i, n := range names {
				if err := write(n, fmt.Sprint(i)); err != nil {
					return seen(strconv.Quote(n), err)
				}
			}
			list, err := os.ReadDir(".")
			for i, n := range names {
				if !slices.ContainsFunc(list, func(e os.DirEntry) bool { return e.Name() == n }) || text(n) != fmt.Sprint(i) {
					return seen("lost", strconv.Quote(n))
				}
			}
			return seen(err, len(list))
		}},
	}
}
