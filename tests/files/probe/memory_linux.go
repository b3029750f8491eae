// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// mapped maps a page of a file, shared.
func mapped(f *os.File, protection int) ([]byte, error) {
	return unix.Mmap(fd(f), 0, 4096, protection, unix.MAP_SHARED)
}

func unmap(m []byte) { _ = unix.Munmap(m) }

// page makes a file of one page and maps it.
func page() (*os.File, []byte) {
	f := file("f", unix.O_CREAT|unix.O_RDWR)
	with(unix.Ftruncate(fd(f), 4096))
	m, err := mapped(f, unix.PROT_READ|unix.PROT_WRITE)
	with(err)
	return f, m
}

func memoryCases() []check {
	return []check{
		{"mmap.two-processes", func() string {
			f, m := page()
			defer f.Close()
			defer unmap(m)
			copy(m, "mine")
			other := second("map", "f", "theirs")
			return seen(other, string(m[:6]))
		}},
		{"mmap.store-then-read", func() string {
			f, m := page()
			defer f.Close()
			defer unmap(m)
			copy(m, "stored")
			buf := make([]byte, 6)
			_, err := f.ReadAt(buf, 0)
			return seen(err, string(buf), text("f")[:6])
		}},
		{"mmap.write-then-load", func() string {
			f, m := page()
			defer f.Close()
			defer unmap(m)
			_ = m[0]
			_, err := f.WriteAt([]byte("written"), 0)
			return seen(err, string(m[:7]))
		}},
		{"mmap.other-opener", func() string {
			f, m := page()
			defer f.Close()
			defer unmap(m)
			_ = m[0]
			g := file("f", unix.O_WRONLY)
			_, err := g.WriteAt([]byte("other"), 100)
			_ = g.Close()
			return seen(err, string(m[100:105]))
		}},
		{"mmap.private", func() string {
			with(write("f", "kept"), unix.Truncate("f", 4096))
			f := file("f", unix.O_RDONLY)
			defer f.Close()
			m, err := unix.Mmap(fd(f), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
			with(err)
			defer unmap(m)
			copy(m, "gone")
			return seen(string(m[:4]), text("f")[:4])
		}},
		{"mmap.after-unlink", func() string {
			f, m := page()
			defer unmap(m)
			err := os.Remove("f")
			_ = f.Close()
			copy(m, "still")
			return seen(err, unix.Msync(m, unix.MS_SYNC), string(m[:5]))
		}},
	}
}

func mapEdgeCases() []check {
	return []check{
		{"mmap.denied", func() string {
			with(write("f", "x"))
			f, w := file("f", unix.O_RDONLY), file("f", unix.O_WRONLY)
			defer f.Close()
			defer w.Close()
			_, e1 := mapped(f, unix.PROT_READ|unix.PROT_WRITE)
			_, e2 := mapped(w, unix.PROT_READ)
			return seen(e1, e2)
		}},
		{"mmap.beyond-end", func() string {
			with(write("f", ""))
			return second("fault", "f")
		}},
		{"mmap.exec", func() string {
			install("p")
			f := file("p", unix.O_RDONLY)
			defer f.Close()
			m, err := unix.Mmap(fd(f), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
			with(err)
			defer unmap(m)
			return string(m[1:4])
		}},
		{"mmap.sync", func() string {
			f, m := page()
			defer f.Close()
			defer unmap(m)
			copy(m, "x")
			return seen(unix.Msync(m, unix.MS_ASYNC), unix.Msync(m, unix.MS_SYNC), f.Sync(),
				unix.Madvise(m, unix.MADV_DONTNEED), string(m[:1]))
		}},
		{"mmap.grown", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			m, err := unix.Mmap(fd(f), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			with(err)
			defer unmap(m)
			with(unix.Ftruncate(fd(f), 8192))
			copy(m[4096:], "grown")
			buf := make([]byte, 5)
			_, err = f.ReadAt(buf, 4096)
			return seen(err, string(buf))
		}},
	}
}

// mapAndStore is the second process of a shared map: it tells what it sees and stores something.
func mapAndStore(name, text string) string {
	f := file(name, unix.O_RDWR)
	defer f.Close()
	m, err := mapped(f, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return seen(err)
	}
	sees := string(m[:4])
	copy(m, text)
	return seen(sees, unix.Munmap(m))
}

// fault touches a page behind a file's end.
func fault(name string) (result string) {
	debug.SetPanicOnFault(true)
	defer func() {
		if recover() != nil {
			result = "SIGBUS"
		}
	}()
	f := file(name, unix.O_RDWR)
	defer f.Close()
	m, err := mapped(f, unix.PROT_READ)
	if err != nil {
		return seen(err)
	}
	return fmt.Sprint("read ", m[0])
}

// mapAndFollow maps a file, prints the text that it begins with, and waits until it begins with
// another. It gives that, or what it still sees when nothing has come.
func mapAndFollow(name, text string) string {
	f := file(name, unix.O_RDONLY)
	defer f.Close()
	m, err := mapped(f, unix.PROT_READ)
	if err != nil {
		return seen(err)
	}
	defer unmap(m)
	fmt.Println(string(m[:len(text)]))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if string(m[:len(text)]) == text {
			break
		}
		<-tick.C
	}
	return string(m[:len(text)])
}
