// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func watchCases() []check {
	return []check{
		{"inotify.folder", func() string {
			with(os.Mkdir("d", 0o755))
			return watched("d", func() {
				with(write("d/f", "x"), unix.Chmod("d/f", 0o600), unix.Rename("d/f", "d/g"),
					unix.Mkdir("d/sub", 0o755), unix.Unlink("d/g"), unix.Rmdir("d/sub"))
			})
		}},
		{"inotify.file", func() string {
			with(write("f", "x"))
			return watched("f", func() { with(writeAt("f"), unix.Truncate("f", 0), unix.Chmod("f", 0o600), unix.Unlink("f")) })
		}},
		{"inotify.replaced", func() string {
			with(os.Mkdir("d", 0o755), write("d/f", "x"), write("new", "y"))
			return watched("d", func() { with(unix.Rename("new", "d/f")) })
		}},
		{"inotify.link", func() string {
			with(write("f", "x"))
			return watched("f", func() { with(os.Link("f", "g"), unix.Unlink("f"), appendByte("g")) })
		}},
	}
}

// watched gives the events of name while act runs. They are queued by the time that each call of
// act returns.
func watched(name string, act func()) string {
	i, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	with(err)
	defer unix.Close(i)
	if _, err := unix.InotifyAddWatch(i, name, unix.IN_ALL_EVENTS&^(unix.IN_ACCESS|unix.IN_OPEN|unix.IN_CLOSE_NOWRITE)); err != nil {
		return seen(err)
	}
	act()
	buf := make([]byte, 1<<14)
	n, err := unix.Read(i, buf)
	if err != nil {
		return seen(err)
	}
	var words []string
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		text, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		words = append(words, fmt.Sprintf("%x:%s", mask, text))
		b = b[unix.SizeofInotifyEvent+size:]
	}
	return strings.Join(words, " ")
}
