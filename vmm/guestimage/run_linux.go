// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a command has to end once its context is over, before it is killed.
const stopGrace = 10 * time.Second

// maxErrorLines is how much of a command's output goes into its error.
const maxErrorLines = 20

// command runs one of the distribution's tools. Its environment is fixed, so that the caller's
// cannot change what comes out. out gets a copy of its standard output; nil for none.
type command struct {
	dir  string
	env  []string
	out  io.Writer
	name string
	args []string
}

// run runs the command to its end. The error has the last lines that it wrote. When ctx ends, the
// tool and everything that it has started gets SIGTERM.
func (c command) run(ctx context.Context) error {
	bin, err := findTool(c.name)
	if err != nil {
		return err
	}
	tail := &tailWriter{}
	cmd := exec.CommandContext(ctx, bin, c.args...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{"PATH=" + toolPath, "LC_ALL=C", "TZ=UTC", "HOME=/"}, c.env...)
	cmd.Stdout = tail
	if c.out != nil {
		cmd.Stdout = io.MultiWriter(tail, c.out)
	}
	cmd.Stderr = tail
	cmd.WaitDelay = stopGrace
	// The tool's children share its group, so that none outlives a cancel.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", c.name, context.Cause(ctx))
		}
		return fmt.Errorf("%s %s: %w\n%s", c.name, strings.Join(c.args, " "), err, tail)
	}
	return nil
}

// output runs the command and returns what it wrote to standard output.
func (c command) output(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	c.out = &b
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// toolPath is where distributions keep tools, depmod's folder included.
const toolPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// findTool looks in toolPath and not in the caller's PATH.
func findTool(name string) (string, error) {
	for _, dir := range filepath.SplitList(toolPath) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w: install the package that has it", name, exec.ErrNotFound)
}

// tailWriter keeps the last lines written to it.
type tailWriter struct {
	lines []string
	part  string
}

// Write keeps the last maxErrorLines lines; a line without an end is cut at 4096 bytes.
func (t *tailWriter) Write(p []byte) (int, error) {
	all := strings.Split(t.part+string(p), "\n")
	t.part = all[len(all)-1]
	if len(t.part) > 4096 {
		t.part = t.part[:4096]
	}
	t.lines = append(t.lines, all[:len(all)-1]...)
	if over := len(t.lines) - maxErrorLines; over > 0 {
		t.lines = append(t.lines[:0], t.lines[over:]...)
	}
	return len(p), nil
}

func (t *tailWriter) String() string {
	return strings.TrimSpace(strings.Join(append(slices.Clip(t.lines), t.part), "\n"))
}

// lock takes an exclusive lock on a file, waiting for who has it, and returns what gives it back.
// The lock ends with its process. waiting is called once if there is somebody to wait for. The file
// stays.
func lock(ctx context.Context, path string, waiting func()) (func(), error) {
	f, err := lockFile(ctx, path, waiting)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// lockPlace is lock with a file that is gone afterwards. Who waited may then have locked a file
// without a name, and looks again.
func lockPlace(ctx context.Context, path string, waiting func()) (func(), error) {
	for {
		f, err := lockFile(ctx, path, waiting)
		if err != nil {
			return nil, err
		}
		held, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// Who had the lock before has removed its file.
		if now, err := os.Lstat(path); err == nil && os.SameFile(held, now) {
			return func() { _, _ = os.Remove(path), f.Close() }, nil
		}
		_ = f.Close() // nothing was written
	}
}

// lockFile opens a file that only its owner can open, and locks it: a lock on the folder itself
// could be held by every user of the host. It tries again every 200 ms, since flock does not end
// with a context.
func lockFile(ctx context.Context, path string, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		if first {
			waiting()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, context.Cause(ctx))
		}
	}
}

// swapIn puts the folder at fresh in place of the one at dir, if any, in one step, and removes the
// old one. A reader that has opened the old folder's files keeps them; one that opens by name gets
// old or new.
func swapIn(fresh, dir string) error {
	// A plain rename does not replace a folder that has something in it.
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rename %q to %q: %w", fresh, dir, err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %q and %q: %w", fresh, dir, err)
	}
	return os.RemoveAll(fresh)
}
