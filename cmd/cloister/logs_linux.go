// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func runLogs(ctx context.Context, std stdio, args []string) error {
	c := newCommand("logs [-f] [--qemu | --virtiofsd] ID", "Prints what the guest wrote to its console. The guest decides what that is: control characters\n"+
		"are shown as ^X unless --raw is given.")
	follow := c.Bool("f", false, "go on printing what is added, until the sandbox ends")
	qemu := c.Bool("qemu", false, "QEMU's messages instead")
	virtiofsd := c.Bool("virtiofsd", false, "the file server's messages instead")
	raw := c.Bool("raw", false, "every byte as it is")
	rest, err := c.arguments(std, args, 1, 1)
	if err != nil {
		return err
	}
	s, err := openFolders(std, *c.config)
	if err != nil {
		return err
	}
	b, err := s.find(rest[0])
	if err != nil {
		return err
	}
	name := b.dir.Console()
	if *qemu {
		name = b.dir.QEMULog()
	} else if *virtiofsd {
		name = b.dir.VirtiofsdLog()
	}
	out := std.out
	if !*raw {
		out = visible{out}
	}
	err = printLog(ctx, out, name, *follow)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox %s is %s and has no such log yet: %w", b.name(), b.state(), err)
	}
	return orRoot(err)
}

// printLog copies the file, and with follow what is added to it until it is removed.
func printLog(ctx context.Context, out io.Writer, name string, follow bool) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !follow {
		_, err := io.Copy(out, f)
		return err
	}
	changes, err := watch(name)
	if err != nil {
		return err
	}
	defer changes.Close()
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	events := make([]byte, 4096)
	for {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		if removed, err := rewound(f); removed || err != nil {
			return err
		}
		if _, err := changes.Read(events); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("watch %q: %w", name, err)
		}
	}
}

// watch gives a file to read from that has something whenever the named one changed.
func watch(name string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	// IN_ATTRIB comes with the removal of a file that is open.
	if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_DELETE_SELF); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %q: %w", name, err), changes.Close())
	}
	return changes, nil
}

// rewound goes back to the start of a log that has begun anew, and tells when the file is removed.
func rewound(f *os.File) (removed bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("stat %q: %w", f.Name(), err)
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err == nil && st.Size < at {
		_, err = f.Seek(0, io.SeekStart)
	}
	return st.Nlink == 0, err
}

// visible writes control characters as ^X: a console's text is the guest's, and a
// terminal obeys it.
type visible struct{ out io.Writer }

func (v visible) Write(p []byte) (int, error) {
	safe := make([]byte, 0, len(p))
	for _, b := range p {
		switch {
		case b == '\n' || b == '\t':
			safe = append(safe, b)
		case b == '\r': // a serial line ends in both
		case b < 0x20 || b == 0x7f:
			safe = append(safe, '^', b^0x40)
		case b >= 0x80 && b < 0xa0: // the eight-bit control characters; harmless within UTF-8, and seldom there
			safe = append(safe, '?')
		default:
			safe = append(safe, b)
		}
	}
	if _, err := v.out.Write(safe); err != nil {
		return 0, err
	}
	return len(p), nil
}
