// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/labels"
	"cloister/sys"

	"golang.org/x/sys/unix"
)

// ErrRefused is wrapped when a path is one that cloister does not label: a link, one of the
// system's folders, a character device, a whole disk, or a file with a name outside its tree. A
// label on it would take it from the host's own programs.
var ErrRefused = errors.New("refused to relabel")

// Item is one file, block device or tree and the label it is to carry.
type Item struct {
	// Path is absolute and clean, and no part of it is a symbolic link, but for a block device in
	// /dev: there it may be one of the links that udev makes, as /dev/mapper/NAME. Such a link is
	// followed once, and the device it led to is the item. Path is left out where File is given.
	Path string
	// File, when not nil, is what is labelled, whatever has come to have its name; O_PATH will do.
	// It is for sources that were opened when the container was planned: a name may be exchanged
	// since. It stays the caller's.
	File  *os.File
	Label labels.Label
	// Recursive labels all below a directory too; mounts below it and device nodes in it are left
	// alone.
	Recursive bool
	// Remember puts the old label back when the last sandbox that uses it is gone. Shared content
	// is not remembered.
	Remember bool
	// After, when not zero, is put there instead of the old label: for disks that cloister made.
	After labels.Label
}

// target is an item that is open and may be labelled.
type target struct {
	Item
	file *os.File // O_PATH
	id   identity
}

// identity tells a file from another that has taken its path. The device's number may differ after
// a reboot, and the number of an inode is used again.
type identity struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	// Birth is the time of making in nanoseconds, 0 where the file system keeps none.
	Birth int64 `json:"birth"`
}

// key names the file's record within a boot, in which device numbers do not change. It is the
// inode, not the path: two names of one file have one record, and so one count.
func (i identity) key() string { return fmt.Sprintf("%x-%x", i.Dev, i.Inode) }

// same leaves the device out: it is asked after a reboot too. It follows that a file with the same
// inode number and time of birth on another file system counts as the same.
func (i identity) same(o identity) bool { return i.Inode == o.Inode && i.Birth == o.Birth }

// open reaches an item without following a link and refuses what is not to be labelled. The caller
// closes the file. An item that is given open gets the path that the kernel has for it now, which
// is what the checks are about and what Restore opens later.
func (j *Journal) open(item Item) (target, error) {
	file, err := item.open()
	if err != nil {
		return target{}, err
	}
	if item.File != nil {
		if item.Path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil {
			return target{}, errors.Join(err, file.Close())
		}
		item.File = nil
	} else if strings.HasPrefix(item.Path, "/dev/") {
		if file, err = followDevice(file); err != nil {
			return target{}, err
		}
		item.Path = file.Name()
	}
	t := target{Item: item, file: file}
	if err := j.check(&t); err != nil {
		return target{}, errors.Join(err, file.Close())
	}
	return t, nil
}

// open gives a descriptor of the journal's own, with O_PATH: it is closed here and not by the
// caller.
func (i Item) open() (*os.File, error) {
	if i.File == nil {
		return openPath(i.Path)
	}
	return sys.Reopen(i.File, unix.O_PATH)
}

// followDevice gives the block device that a link of udev's leads to, in place of the link;
// anything else is given as it is.
func followDevice(file *os.File) (*os.File, error) {
	stat, _, err := identify(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return file, nil
	}
	device, err := openDeviceLink(file.Name())
	return device, errors.Join(err, file.Close())
}

// openDeviceLink follows a link of udev's to a block device, once: the descriptor is what is
// labelled, under the name that it has. The devmapper snapshotter hands over /dev/mapper/NAME,
// which is such a link. Links that lead out of /dev or to anything else are refused: whoever can
// make one would choose what is labelled.
func openDeviceLink(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, &os.PathError{Op: "relabel", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // O_PATH
	stat, _, err := identify(f)
	if err != nil {
		return nil, err
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK || !strings.HasPrefix(name, "/dev/") {
		return nil, fmt.Errorf("%w: %s leads to %s, which is no block device in /dev: give its own path", ErrRefused, path, name)
	}
	// A descriptor of its own is returned under the resolved name, since an os.File keeps its name.
	copied, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), name), nil
}

// openPath opens for labelling alone: nothing is read, and a device is not woken.
func openPath(path string) (*os.File, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("%w: %q is not an absolute, clean path", ErrRefused, path)
	}
	file, err := sys.OpenNoLinks(path, unix.O_PATH|unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s goes through a symbolic link: give the path it leads to (readlink -f)", ErrRefused, path)
	case err != nil:
		return nil, fmt.Errorf("relabel: %w", err)
	}
	return file, nil
}

// check refuses what must not be labelled, by what the descriptor is. A path that the kernel shows
// otherwise than it was given went through a bind mount or was renamed meanwhile.
func (j *Journal) check(t *target) error {
	stat, id, err := identify(t.file)
	if err != nil {
		return err
	}
	t.id = id
	resolved, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", t.file.Fd()))
	if err != nil {
		return err
	}
	if resolved != t.Path {
		return fmt.Errorf("%w: %s is %s", ErrRefused, t.Path, resolved)
	}
	if err := j.system.check(t.Path); err != nil {
		return err
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return fmt.Errorf("%w: %s is a symbolic link: give the path it leads to (readlink -f)", ErrRefused, t.Path)
	case unix.S_IFCHR:
		return fmt.Errorf("%w: %s is a character device: those are handed over open, not by label", ErrRefused, t.Path)
	case unix.S_IFBLK:
		if !j.options.AllowWholeDisks && wholeDisk(stat.Rdev_major, stat.Rdev_minor) {
			return fmt.Errorf("%w: %s is a whole disk: give a partition or volume, or allow whole disks in the config", ErrRefused, t.Path)
		}
	}
	if t.Recursive && stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Recursive = false
	}
	return nil
}

// identify asks statx for the file that a descriptor stands for, not for its path.
func identify(f *os.File) (unix.Statx_t, identity, error) {
	var stat unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stat)
	if err != nil {
		return stat, identity{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	id := identity{Dev: unix.Mkdev(stat.Dev_major, stat.Dev_minor), Inode: stat.Ino}
	if stat.Mask&unix.STATX_BTIME != 0 {
		id.Birth = stat.Btime.Sec*1e9 + int64(stat.Btime.Nsec)
	}
	return stat, id, nil
}

// mountOf goes up from path as long as the device is the same. It gives the top of the file system
// and that folder's identity, by which a later boot tells that the file system is mounted there.
func mountOf(path string, id identity) (string, identity, error) {
	for path != "/" {
		above, err := openPath(filepath.Dir(path))
		if err != nil {
			return "", identity{}, err
		}
		_, aboveID, err := identify(above)
		// Only the identity of the folder above counts; its descriptor is not needed any more.
		if err := errors.Join(err, above.Close()); err != nil {
			return "", identity{}, err
		}
		if aboveID.Dev != id.Dev {
			break
		}
		path, id = filepath.Dir(path), aboveID
	}
	return path, id, nil
}

// wholeDisk tells a disk from a partition of one and from a volume (device mapper, RAID, loop,
// zvol). A guest with a whole disk could write the partition table and what else is on it. A device
// that is not in sysfs counts as a disk.
func wholeDisk(major, minor uint32) bool {
	device := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	if _, err := os.Stat(device + "/partition"); err == nil {
		return false
	}
	link, err := os.Readlink(device)
	if err != nil {
		return true
	}
	name := filepath.Base(link)
	for _, prefix := range []string{"dm-", "md", "loop", "zd"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}
