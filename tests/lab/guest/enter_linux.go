// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/tests/lab/wire"
)

// enter is started with an entry, an output file and a command line. It opens what is to be handed
// on, asks for the label and becomes the command: as the shim does, from the shim's domain.
func enter() error {
	runtime.LockOSThread()
	var entry wire.Entry
	if err := json.Unmarshal([]byte(os.Args[1]), &entry); err != nil {
		return err
	}
	output, argv := os.Args[2], os.Args[3:]
	out, err := unix.Open(output, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("output %s: %w", output, err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for target, fd := range []int{null, out, out} {
		if err := unix.Dup2(fd, target); err != nil {
			return err
		}
	}
	var handed []int
	for _, file := range entry.Open {
		fd, err := open(file)
		if err != nil {
			return err
		}
		handed = append(handed, fd)
	}
	if len(entry.Send) > 0 {
		fd, err := send(entry)
		if err != nil {
			return err
		}
		handed = append(handed, fd)
	}
	// Above where they will be, so that no dup2 overwrites one that is still needed.
	for i, fd := range handed {
		if handed[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 100); err != nil {
			return err
		}
	}
	for i, fd := range handed {
		if err := unix.Dup3(fd, 3+i, 0); err != nil {
			return err
		}
	}
	if err := attribute("exec", entry.Label); err != nil {
		return fmt.Errorf("exec label %s: %w", entry.Label, err)
	}
	err = unix.Exec(argv[0], argv, os.Environ())
	return fmt.Errorf("enter %s by %s: %w", entry.Label, argv[0], err)
}

// open opens one file, or makes a tap.
func open(file wire.File) (int, error) {
	if file.Flags == "tap" {
		return tap(file.Path)
	}
	flags := unix.O_RDONLY
	for _, letter := range file.Flags {
		switch letter {
		case 'r':
		case 'w':
			flags |= unix.O_RDWR
		case 'a':
			flags |= unix.O_WRONLY | unix.O_APPEND
		case 'd':
			flags |= unix.O_DIRECTORY
		case 'p':
			flags |= unix.O_PATH
		default:
			return 0, fmt.Errorf("open %s: flag %q", file.Path, letter)
		}
	}
	fd, err := unix.Open(file.Path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", file.Path, err)
	}
	return fd, nil
}

// tap opens a tap; a name ending in + is joined as one more queue.
func tap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("tap: %w", err)
	}
	request, err := unix.NewIfreq(strings.TrimSuffix(name, "+"))
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, fmt.Errorf("tap %s: %w", name, err)
	}
	return fd, nil
}

// send leaves opened files in a socket pair made under the label, and returns the half they can be
// received from.
func send(entry wire.Entry) (int, error) {
	if err := attribute("sockcreate", entry.Label); err != nil {
		return 0, fmt.Errorf("socket label: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := attribute("sockcreate", ""); err != nil {
		return 0, fmt.Errorf("socket label: %w", err)
	}
	var fds []int
	for _, file := range entry.Send {
		fd, err := open(file)
		if err != nil {
			return 0, err
		}
		fds = append(fds, fd)
	}
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fds...), nil, 0); err != nil {
		return 0, err
	}
	return pair[1], errors.Join(unix.Close(pair[0]))
}

// attribute writes one of the thread's labels; nothing takes it back.
func attribute(name, label string) error {
	fd, err := unix.Open("/proc/thread-self/attr/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	text := []byte(label)
	if len(text) == 0 {
		text = []byte{'\n'}
	}
	_, err = unix.Write(fd, text)
	return errors.Join(err, unix.Close(fd))
}
