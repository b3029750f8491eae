// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cloister/sandbox/statedir"
	"cloister/sys"
)

// runLogs is the verb logs. It needs no daemon: it reads the file through the shim's mount
// namespace.
func runLogs(std stdio) *cobra.Command {
	c := newCommand(std, "logs [-f] [--tail LINES] [--qemu | --virtiofsd] ID",
		"Prints what the guest wrote to its console. The guest decides what that is: control characters\n"+
			"are shown as ^X unless --raw is given. Lines carry no time, so that --tail is the way to see the last ones.\n"+
			"A console of the microvm machine begins with \"PCI: Fatal: No config space access function found\":\n"+
			"the guest's kernel says that the machine has no PCI bus. It goes on with virtio-mmio.")
	follow := c.Flags().BoolP("follow", "f", false, "go on printing what is added, until the sandbox ends")
	qemu := c.Flags().Bool("qemu", false, "QEMU's messages instead")
	virtiofsd := c.Flags().Bool("virtiofsd", false, "the file server's messages instead")
	tail := c.Flags().IntP("tail", "n", -1, "print only the last `lines`; -1 prints all")
	c.ofSandboxes()
	raw := c.Flags().Bool("raw", false, "every byte as it is")
	return c.runs(1, 1, func(ctx context.Context, rest []string) error {
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		b, err := s.find(rest[0])
		if err != nil {
			return err
		}
		name := statedir.Console
		// QEMU and the file server write little, unless something is wrong.
		if *qemu {
			name = statedir.QEMULog
		} else if *virtiofsd {
			name = statedir.VirtiofsdLog
		}
		out := std.out
		if !*raw {
			// A console is text of the guest's, and a terminal obeys it: see visible.
			out = visible{out}
		}
		err = printLog(ctx, out, b.dir.Log(b.record.Owner, name), *tail, *follow)
		// The sandbox may not have got so far, or its shim is gone and the log with it.
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sandbox %s is %s and has no such log yet: %w", b.name(), b.state(), err)
		}
		return orRoot(err)
	})
}

// printLog copies the file, or its last lines if tail is not negative. With follow it goes on with
// every addition until the file is removed. The shim bounds a log by starting it over, which the
// reader must notice; see rewound.
func printLog(ctx context.Context, out io.Writer, name string, tail int, follow bool) error {
	// NOFOLLOW: the file is the shim's own, and a link in its place is somebody's attempt.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := seekTail(f, tail); err != nil {
		return err
	}
	if !follow {
		_, err := io.Copy(out, f)
		return err
	}
	// Watched before the first copy, so that nothing added in between is missed.
	changes, err := sys.NewInotify()
	if err != nil {
		return err
	}
	defer changes.Close()
	// IN_ATTRIB comes with the removal of a file that is open.
	if _, err := changes.Add(f, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_DELETE_SELF); err != nil {
		return fmt.Errorf("watch %q: %w", name, err)
	}
	// A read of an inotify descriptor cannot be cancelled otherwise.
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The events are not decoded: each means "look again".
	events := make([]byte, 4096)
	for {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		// The file has no name any more: its sandbox is gone.
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

// seekTail goes to where the last lines of a file begin; to its start when lines is negative. It
// reads blocks from the end, so a log of a mebibyte costs little for its last lines.
func seekTail(f *os.File, lines int) error {
	if lines < 0 {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || lines == 0 {
		return err
	}
	buffer := make([]byte, 32<<10)
	for to := end; to > 0; {
		from := max(0, to-int64(len(buffer)))
		part := buffer[:to-from]
		if _, err := f.ReadAt(part, from); err != nil {
			return err
		}
		for i, b := range slices.Backward(part) {
			at := from + int64(i) + 1
			if b != '\n' || at == end { // the last line's own end does not count
				continue
			}
			if lines--; lines == 0 {
				_, err := f.Seek(at, io.SeekStart)
				return err
			}
		}
		to = from
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// rewound goes back to the start of a log that has begun anew, and tells when the file is removed.
// A log that is full begins anew with its last part; its size is below the reader's place then.
// What was written in between is lost to the reader.
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
// terminal obeys it. Carriage returns are dropped: the console ends lines with both, and alone they
// would let text be overwritten.
type visible struct{ out io.Writer }

// Write counts the bytes of p, not those written, as io.Writer wants.
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
