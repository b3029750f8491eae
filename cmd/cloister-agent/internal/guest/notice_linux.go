// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/containers"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// Notice touches what the host has changed: a file's mtime that is set to what it is raises
// IN_MODIFY, and changes its ctime alone. The guest's programs then see what they would see on the
// host. virtiofs carries no inotify events, so the kernel has to raise its own.
func (s *Service) Notice(ctx context.Context, r *guestv1.NoticeRequest) (*types.Empty, error) {
	id, err := containers.ParseID(r.GetId())
	if err != nil {
		return nil, err
	}
	// The target is relative to the container's folder; the host is trusted, but a name with ".."
	// must not lead the agent out of it.
	if !filepath.IsLocal(r.GetTarget()) {
		return nil, fmt.Errorf("target %q is not below the container's folder: %w", r.GetTarget(), errdefs.ErrInvalidArgument)
	}
	name := filepath.Join(s.table.Dir(id), r.GetTarget())
	// O_PATH and NOFOLLOW: the volume's files are the workload's, and a link put there must not
	// lead the agent to another file.
	root, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(root)
	for _, name := range r.GetNames() {
		// Append-only, or on a read-only mount: the others go on. A name that is gone by now is no
		// error either.
		if err := notice(root, string(name)); err != nil && !errors.Is(err, unix.ENOENT) {
			log.G(ctx).WithError(err).Debugf("touch %q", name)
		}
	}
	return &types.Empty{}, nil
}

// notice sets mtime to itself: atime is left out, so only ctime moves.
func notice(root int, name string) error {
	fd, err := nearest(root, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	// The cached mtime may be an old one: writing that back would undo a change of the host's.
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_MTIME, &st); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: st.Mtime.Sec, Nsec: int64(st.Mtime.Nsec)}}
	return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
}

// nearest opens what has a name below root or, if that is gone, the folder in which it is missing.
// It walks one component at a time without following links. A file that is gone raises an event in
// its folder, as a removal would.
func nearest(root int, name string) (int, error) {
	at, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." || !exists(at, part) {
			// "." and ".." are not names that the host sends; a walk that would leave root ends
			// where it is.
			break
		}
		next, err := unix.Openat(at, part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		_ = unix.Close(at)
		at = next
	}
	return at, nil
}

// exists asks the file server, whatever the kernel remembers of the name: it would go on giving a
// replaced file for a second. Only who is to make a name is made to ask again; this link is never
// made, being one of a folder and from another mount. A lookup for creation always goes to the
// server, whatever the time for which an entry is valid.
func exists(dir int, name string) bool {
	return errors.Is(unix.Linkat(unix.AT_FDCWD, "/", dir, name, 0), unix.EEXIST)
}
