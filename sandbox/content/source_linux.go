// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/sys"
)

// Container is what an engine says of a container's files. Nothing in it is resolved until Open.
type Container struct {
	ID       string
	Bundle   string // absolute
	Workload *oci.Workload
	Rootfs   []plan.Mount // as the engine sent them; none: root.path is mounted already
	Joins    uint32       // process of the guest whose namespaces it joins; 0: none but the pod's
}

// absolute is a path of the configuration. The OCI configuration has paths relative to its bundle.
func (c Container) absolute(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.Bundle, name)
}

// Files are a container's sources, each opened once. A Files is used by one goroutine at a time.
// Descriptors are O_PATH: they give no right to read, block on no FIFO and wake no device.
type Files struct {
	sources []*source // by the workload's mounts; nil for what needs none
	rootfs  *os.File  // what is bound as root file system; nil where a mount makes it
}

// source is the file of the host that a bind mount names.
type source struct {
	file   *os.File // O_PATH
	folder *os.File // of a copied file: the folder that it is in
}

// Close lets go of the files. Mounts and copies that were made from them stay. A nil Files has
// none.
func (f *Files) Close() {
	if f == nil {
		return
	}
	for _, s := range f.sources {
		if s != nil {
			s.close()
		}
	}
	if f.rootfs != nil {
		_ = f.rootfs.Close() // O_PATH
	}
}

func (s *source) close() {
	for _, f := range []*os.File{s.file, s.folder} {
		if f != nil {
			_ = f.Close() // O_PATH
		}
	}
}

// Source is what a mount of the workload names, opened with O_PATH; nil for one that names nothing.
// It stays the Files'.
func (f *Files) Source(mount int) *os.File {
	if s := f.sources[mount]; s != nil {
		return s.file
	}
	return nil
}

// Open opens what a container's mounts name, and says what was found: the sources of the
// container's plan, by the workload's mounts. What cannot be opened is among what was found. A
// Problem is for the plan to report, beside all others of the container. A user should not have to
// correct one mount after the other.
func Open(c Container) (*Files, []plan.Source, error) {
	f := &Files{sources: make([]*source, len(c.Workload.Mounts))}
	found := make([]plan.Source, len(c.Workload.Mounts))
	if c.Workload.Role == oci.Sandbox {
		return f, found, nil // nothing runs on the first container's files
	}
	// Once for all sources: the table of a host with many containers has thousands of lines.
	mounts, err := mountPoints()
	if err != nil {
		return nil, nil, err
	}
	for i, m := range c.Workload.Mounts {
		// Shared memory is a tmpfs of the guest's own: the host's /dev/shm of the pod is left
		// alone.
		if m.Kind != oci.BindMount || m.Purpose == oci.SharedMemory {
			continue
		}
		found[i] = plan.Source{Name: c.absolute(m.Source)}
		s, err := openSource(found[i].Name, m.Purpose.Copied())
		f.sources[i] = s
		if err == nil {
			err = s.describe(&found[i])
		}
		if err != nil {
			found[i].Problem = problem(err)
			continue
		}
		found[i].MountsBelow = mountedBelow(found[i].Real, mounts)
		if m.IDs.IsZero() || m.Purpose.Copied() || found[i].Kind == plan.Socket {
			continue
		}
		if err := tryOwners(s.file, m.IDs, m.Recursive, m.MapsBelow); err != nil {
			// It is asked now since the answer must come before there is a machine.
			found[i].Unmappable = err.Error()
		}
	}
	return f, found, nil
}

// openSource opens a file whose name is an engine's or a user's. The folder's name may go through
// links, as the user means it. A copied file itself must not be one: it is read again by its name
// while the guest runs, and the guest may be able to change that name. The source that is returned
// beside an error may hold what was opened before it; close takes that away.
func openSource(name string, copied bool) (*source, error) {
	if !copied {
		file, err := os.OpenFile(name, unix.O_PATH, 0)
		return &source{file: file}, err
	}
	folder, err := os.OpenFile(filepath.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return &source{}, err
	}
	file, err := openLeaf(folder, filepath.Base(name))
	return &source{file: file, folder: folder}, err
}

// openLeaf opens a file of a folder, or the link that is there in its stead. O_PATH with O_NOFOLLOW
// opens the link itself, so that describe can name it as what it is.
func openLeaf(folder *os.File, name string) (*os.File, error) {
	defer runtime.KeepAlive(folder)
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(folder.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(folder.Name(), name)), nil
}

// describe says what the file is. All is read from the descriptor: a name would be a second answer,
// perhaps of another file. Real is what /proc calls the file now, for rules and errors.
func (s *source) describe(to *plan.Source) error {
	defer runtime.KeepAlive(s)
	var st unix.Statx_t
	if err := unix.Statx(int(s.file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st); err != nil {
		return &os.PathError{Op: "stat", Path: s.file.Name(), Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.file.Fd()), &fs); err != nil {
		return &os.PathError{Op: "stat file system of", Path: s.file.Name(), Err: err}
	}
	path, err := os.Readlink(fdPath(s.file))
	if err != nil {
		return err
	}
	to.Real, to.Kind, to.FS = path, kindOf(st.Mode), fs.Type
	to.ID = plan.FileID{Device: fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor), Inode: st.Ino, Mount: st.Mnt_id}
	to.Mode, to.UID, to.GID = uint32(st.Mode)&0o777, st.Uid, st.Gid
	return nil
}

// kindOf reads the kind of a file from its mode. A device is what is nothing else; plan refuses it
// as a volume.
func kindOf(mode uint16) plan.FileKind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return plan.Folder
	case unix.S_IFREG:
		return plan.RegularFile
	case unix.S_IFSOCK:
		return plan.Socket
	case unix.S_IFIFO:
		return plan.FIFO
	case unix.S_IFLNK:
		return plan.Link
	default:
		return plan.Device
	}
}

// problem is why a source could not be opened, as a user understands it. The text follows the
// mount's name in an error.
func problem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist on the host: create it first, or remove the mount"
	case errors.Is(err, unix.ELOOP):
		return "is a loop of symbolic links: name the file itself"
	default:
		return err.Error()
	}
}

// mountPoints are all places of this mount namespace where something is mounted. The shim's mount
// namespace is a slave of the host's, so it has what the engine has mounted.
func mountPoints() ([]string, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	points := make([]string, len(infos))
	for i, m := range infos {
		points[i] = m.Mountpoint
	}
	return points, nil
}

// mountedBelow does not count a mount on dir itself.
func mountedBelow(dir string, points []string) bool {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	for _, p := range points {
		if p != dir && strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// isFolder says whether an open file is a folder.
func isFolder(f *os.File) (bool, error) {
	defer runtime.KeepAlive(f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// ReadCopied reads a file that is copied into a guest: a regular file, of a bounded size, reached
// through no link. Nothing that somebody puts in its place can block the reader or be opened by it.
// A FIFO in the place of /etc/hosts would hold up the start, and a device could do anything when it
// is opened. So the kind is asked of the O_PATH descriptor first, and that very file is opened
// then.
func ReadCopied(file *os.File) ([]byte, error) {
	defer runtime.KeepAlive(file)
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	if kind := kindOf(uint16(st.Mode)); kind != plan.RegularFile {
		return nil, fmt.Errorf("%q is a %s: %w: want a regular file", file.Name(), kind, errRefused)
	}
	f, err := sys.Reopen(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return readBounded(f)
}
