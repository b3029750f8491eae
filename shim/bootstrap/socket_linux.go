// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultSocketDir is where containerd's own shims have their sockets.
	defaultSocketDir = "/run/containerd/s"
	// maxSocketDir leaves room for a slash, the name and the end in sockaddr_un's 108 bytes
	// (unix(7)).
	maxSocketDir = 42
	// socketPrefix tells our sockets from those of other shims in the same folder.
	socketPrefix = "cloister-"
	// nameBytes of the sum make the rest of the name.
	nameBytes = 27

	unixScheme = "unix://"
)

// socketPath names the socket of a group. The runtime's name is part of it, so that two runtimes
// never meet at one socket. So are containerd's address and namespace: two containerds on one host
// may use the same ids. A sum has one length whatever the ids are, and fits.
func socketPath(dir, runtime string, r Request, group string) (string, error) {
	if dir == "" {
		dir = defaultSocketDir
	}
	if !filepath.IsAbs(dir) || len(dir) > maxSocketDir {
		return "", fmt.Errorf("socket folder %q: want an absolute path of at most %d bytes", dir, maxSocketDir)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{runtime, r.GRPCAddress, r.Namespace, group}, "\x00")))
	return fmt.Sprintf("%s/%s%x", filepath.Clean(dir), socketPrefix, sum[:nameBytes]), nil
}

// listen returns the group's new socket, or nil when a daemon serves it already. A socket that
// nobody listens on is replaced: its daemon was killed. The folder's lock orders two starts of one
// group, of which the second finds the first one's daemon.
func listen(path string) (*net.UnixListener, error) {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	switch err := probe(path); {
	case err == nil:
		return nil, nil
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Only the daemon's copy outlives start; closing ours must leave the file.
	l.SetUnlinkOnClose(false)
	// Until here only the folder's mode keeps others out, which is why it is 0700.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}

// probe connects and hangs up. ECONNREFUSED means that the name is there and nobody listens; a
// daemon whose start is under way listens already.
func probe(path string) error {
	c, err := (&net.Dialer{Timeout: time.Second}).Dial("unix", path)
	if err != nil {
		return err
	}
	return c.Close()
}

// removeStale removes a socket file unless somebody listens on it. The lock keeps a start from
// making the socket anew in between.
func removeStale(path string) error {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if !errors.Is(probe(path), unix.ECONNREFUSED) {
		return nil
	}
	return os.Remove(path)
}

// RemoveStale removes the sockets in the usual folder whose daemon is dead: a daemon that is killed
// leaves its own, and nobody else comes for it when its bundle is gone as well. It gives the names
// of those it removed.
func RemoveStale() ([]string, error) { return removeAllStale(defaultSocketDir) }

// removeAllStale goes on after an error: one socket that cannot be removed keeps no other.
func removeAllStale(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, socketPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, path := range paths {
		errs = append(errs, removeStale(path))
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			removed = append(removed, path)
		}
	}
	return removed, errors.Join(errs...)
}

// removeSocket takes a socket's name away, so that no later start finds a daemon that is about to
// leave.
func removeSocket(path string) error {
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockDir makes the socket folder and keeps other starts out of it while a socket is looked at and
// made.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
