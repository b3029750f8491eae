// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func device(name string, kind, major, minor uint32) error {
	return unix.Mknod(name, kind|0o666, int(unix.Mkdev(major, minor)))
}

func nodeCases() []check {
	return []check{
		{"device.null", func() string {
			with(device("n", unix.S_IFCHR, 1, 3))
			st := lstat("n")
			f := file("n", unix.O_RDWR)
			defer f.Close()
			_, werr := f.WriteString("x")
			_, rerr := f.Read(make([]byte, 1))
			return seen(unix.Major(st.Rdev), unix.Minor(st.Rdev), werr, rerr)
		}},
		{"device.others", func() string {
			with(device("zero", unix.S_IFCHR, 1, 5), device("full", unix.S_IFCHR, 1, 7), device("random", unix.S_IFCHR, 1, 9))
			z, r := file("zero", unix.O_RDONLY), file("random", unix.O_RDONLY)
			defer z.Close()
			defer r.Close()
			buf := []byte{1, 2}
			_, zerr := io.ReadFull(z, buf)
			_, rerr := io.ReadFull(r, make([]byte, 8))
			return seen(zerr, buf, rerr, write("full", "x"))
		}},
		{"device.foreign", func() string {
			// Not of the default set: the node can be made, and opens nothing.
			return seen(device("mem", unix.S_IFCHR, 1, 1), open("mem", 0), device("disk", unix.S_IFBLK, 8, 0), open("disk", 0))
		}},
		{"device.denied", func() string {
			with(unix.Chmod(".", 0o777))
			return user(func() string {
				return seen(device("n", unix.S_IFCHR, 1, 3), unix.Mkfifo("p", 0o644),
					unix.Mknod("f", unix.S_IFREG|0o644, 0), unix.Mknod("s", unix.S_IFSOCK|0o644, 0))
			})
		}},
		{"fifo.pass", func() string {
			with(unix.Mkfifo("p", 0o644))
			busy := open("p", unix.O_WRONLY|unix.O_NONBLOCK)
			said := make(chan string)
			go func() { said <- text("p") }()
			return seen(busy, write("p", "through"), <-said, open("p", unix.O_RDONLY|unix.O_NONBLOCK))
		}},
		{"socket.stream", func() string { return talk(unix.SOCK_STREAM) }},
		{"socket.seqpacket", func() string { return talk(unix.SOCK_SEQPACKET) }},
		{"socket.errors", func() string {
			s, err := listen(unix.SOCK_STREAM)
			defer unix.Close(s)
			_, again := listen(unix.SOCK_STREAM)
			with(write("f", ""), unix.Chmod("s", 0o600))
			denied := user(func() string { return seen(connect("s")) })
			unlink := unix.Unlink("s")
			return seen(err, again, open("f", 0), connect("f"), denied, unlink, connect("s"))
		}},
		{"socket.stale", func() string {
			s, err := listen(unix.SOCK_STREAM)
			with(err, unix.Close(s))
			_, again := listen(unix.SOCK_STREAM)
			return seen(connect("s"), again, open("s", 0))
		}},
		{"node.kinds", func() string {
			with(unix.Mkfifo("p", 0o640), unix.Mknod("s", unix.S_IFSOCK|0o600, 0),
				device("c", unix.S_IFCHR, 10, 200), device("b", unix.S_IFBLK, 259, 65536))
			var words []string
			for n := range strings.FieldsSeq("p s c b") {
				st := lstat(n)
				words = append(words, fmt.Sprintf("%o/%d:%d", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
			}
			return seen(strings.Join(words, " "), os.Remove("c"), os.Remove("p"))
		}},
	}
}

// listen makes the socket s.
func listen(kind int) (int, error) {
	s, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	with(err)
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: "s"}); err != nil {
		_ = unix.Close(s)
		return -1, err
	}
	return s, unix.Listen(s, 1)
}

func connect(name string) error {
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	with(err)
	defer unix.Close(c)
	return unix.Connect(c, &unix.SockaddrUnix{Name: name})
}

func talk(kind int) string {
	s, err := listen(kind)
	with(err)
	defer unix.Close(s)
	c, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	with(err, unix.Connect(c, &unix.SockaddrUnix{Name: "s"}))
	defer unix.Close(c)
	a, _, err := unix.Accept(s)
	with(err)
	defer unix.Close(a)
	_, werr := unix.Write(c, []byte("hello"))
	buf := make([]byte, 10)
	n, rerr := unix.Read(a, buf)
	return seen(werr, rerr, string(buf[:n]))
}
