// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sys"
)

// Bounds of a sandbox's own file system. It holds folders, mount points and three logs of at most 1
// MiB each. A guest can make nothing in it but those logs, which are overwritten when they are
// full.
const (
	ownBytes  = 8 << 20
	ownInodes = 16 << 10
)

// Names in a sandbox's own file system.
const (
	shareFolder = "share"
	emptyFolder = "empty"
)

// Share is the tree that the guest's file server shows. It lies on a tmpfs of the sandbox's own,
// and the file server has a read-only view of it: a guest can write to what is mounted in the tree
// and to nothing else. So no name on the way to a mount can be changed by a guest. Volumes
// serializes its own changes; containers are added and removed by one caller for each id.
type Share struct {
	own  *os.File // top of the tmpfs, writable
	tree *os.File // the tree, writable: mount points are made here
	view *os.File // the same tree as the file server sees it: mounts are made here

	server interface{ Do(f func() error) error } // runs f in the file server's mount namespace; nil: this one
	served *os.File                              // the view's copy there
}

// NewShare mounts a sandbox's own file system at own and the file server's view of the tree at
// view, two empty folders that nobody but root can change. labelOwn and labelTree label the tops of
// the two, and labelEmpty the folder that becomes QEMU's root, before anybody can see them. The
// mounts go with the mount namespace; Close takes them away earlier. An error has taken everything
// back.
func NewShare(own, view string, labelOwn, labelTree, labelEmpty func(*os.File) error) (_ *Share, err error) {
	s := &Share{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.own, err = mountTmpfs(own); err != nil {
		return nil, err
	}
	if err := labelOwn(s.own); err != nil {
		return nil, err
	}
	// QEMU's root becomes this folder before the guest runs.
	empty, err := sys.MkdirBelow(s.own, emptyFolder, 0o555)
	if err != nil {
		return nil, err
	}
	defer empty.Close() // O_PATH
	if err := labelEmpty(empty); err != nil {
		return nil, err
	}
	if s.tree, err = sys.MkdirBelow(s.own, shareFolder, 0o755); err != nil {
		return nil, err
	}
	// Before the view exists: a copy that the file server sees never has a file without its label.
	if err := labelTree(s.tree); err != nil {
		return nil, err
	}
	// Two mounts of one tree: read-only is a property of the mount, so the host can make names in
	// one while the guest's side cannot.
	tree, err := clone(s.tree, false)
	if err != nil {
		return nil, err
	}
	defer tree.Close() // the mount stays
	// Shared: what is mounted in it appears in the file server's mount namespace.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_SHARED}
	if err := setAttr(tree, false, &attr); err != nil {
		return nil, fmt.Errorf("restrict the share: %w", err)
	}
	if err := moveTo(tree, view); err != nil {
		return nil, err
	}
	if s.view, err = os.OpenFile(view, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return nil, err
	}
	for _, name := range []string{guestapi.ShareContainers, guestapi.ShareVolumes} {
		f, err := sys.MkdirBelow(s.tree, name, 0o711)
		if err != nil {
			return nil, err
		}
		_ = f.Close() // O_PATH
	}
	return s, nil
}

// Serve says in which mount namespace the file server is, where mounts of this one appear. top is
// the view there, which Close closes. It is called before the share is used by containers. Without
// it a volume that becomes read-only would do so here alone.
func (s *Share) Serve(server interface{ Do(f func() error) error }, top *os.File) {
	s.server, s.served = server, top
}

// mountTmpfs gives the top of a new tmpfs that is mounted at a folder. The calls of the new mount
// API give a descriptor before the file system has a name, so that it never is anywhere with the
// wrong options. 0711: see AddContainer.
func mountTmpfs(at string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's own file system: fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{
		{"source", "cloister"}, {"mode", "0711"}, {"size", fmt.Sprint(ownBytes)}, {"nr_inodes", fmt.Sprint(ownInodes)},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("the sandbox's own file system: tmpfs %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("the sandbox's own file system: make a tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's own file system: mount a tmpfs: %w", err)
	}
	top := os.NewFile(uintptr(fd), at)
	if err := moveTo(top, at); err != nil {
		return nil, errors.Join(err, top.Close())
	}
	return top, nil
}

// Close takes the share and the sandbox's own file system away, with all that is mounted in them.
// The file server may hold on to what it has open. The shim's mount namespace is the only one that
// has these mounts by name; a shim that is killed needs no Close. It may be called on a Share that
// is half made.
func (s *Share) Close() error {
	var errs []error
	for _, f := range []*os.File{s.view, s.own} {
		if f != nil {
			errs = append(errs, detach(f))
		}
	}
	for _, f := range []*os.File{s.view, s.tree, s.own, s.served} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Create makes a file in the sandbox's own file system, beside the share: no guest sees it, and it
// fills nobody else's. A name that exists is an error: each log is made once.
func (s *Share) Create(name string) (*os.File, error) {
	return sys.OpenBelow(s.own, name, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL, 0o600)
}

// Empty opens a folder without anything in it. It is the caller's to close.
func (s *Share) Empty() (*os.File, error) {
	return sys.OpenBelow(s.own, emptyFolder, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// addFolder makes a folder of the tree; rel is relative to its top, and all but its last element
// exists. A name that exists is an error: ids and numbers of volumes are used once.
func (s *Share) addFolder(rel string, mode uint32) error {
	parent, err := sys.OpenBelow(s.tree, path.Dir(rel), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close() // O_PATH
	f, err := sys.MkdirBelow(parent, path.Base(rel), mode)
	if err != nil {
		return err
	}
	return f.Close()
}

// addMountPoint makes a folder, or an empty file, to mount on and opens it in the view. On an error
// there is none. It is made in the writable tree and opened in the view, where mounts belong.
func (s *Share) addMountPoint(rel string, folder bool) (_ *os.File, err error) {
	if folder {
		err = s.addFolder(rel, 0o755)
	} else {
		var f *os.File
		if f, err = sys.OpenBelow(s.tree, rel, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	point, err := s.open(rel)
	if err != nil {
		return nil, errors.Join(err, s.remove(rel))
	}
	return point, nil
}

// open opens what is at a place of the view: the mount on top there is.
func (s *Share) open(rel string) (*os.File, error) { return sys.OpenBelow(s.view, rel, unix.O_PATH, 0) }

// attach mounts a tree that is mounted nowhere at a mount point, which is made for it. After an
// error the mount point is gone again.
func (s *Share) attach(tree *os.File, rel string, folder bool) error {
	point, err := s.addMountPoint(rel, folder)
	if err != nil {
		return err
	}
	defer point.Close() // O_PATH
	if err := moveOnto(tree, point); err != nil {
		return errors.Join(err, s.remove(rel))
	}
	return nil
}

// remove unmounts everything that is mounted at a place of the view and removes the mount point. A
// place that is not there is no error. The mount point stays if something is still mounted on it:
// rmdir would give EBUSY.
func (s *Share) remove(rel string) error {
	if err := s.unmount(rel); err != nil {
		return err
	}
	parent, err := sys.OpenBelow(s.tree, path.Dir(rel), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close() // O_PATH
	return sys.RemoveBelow(parent, path.Base(rel))
}

// unmount detaches what is mounted at a place of the view, the mount on top first. The file server
// may hold on to what it has open there. An engine's root file system may be several mounts on one
// place. The loop ends when the place is in the view's own mount again.
func (s *Share) unmount(rel string) error {
	base, err := mountID(s.view)
	if err != nil {
		return err
	}
	for {
		top, err := s.open(rel)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		id, err := mountID(top)
		if err == nil && id != base {
			err = detach(top)
		}
		_ = top.Close() // O_PATH
		if err != nil || id == base {
			return err
		}
	}
}
