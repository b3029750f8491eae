// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/watch"
	"cloister/sys"
)

// Volumes are the folders and files of the host that a sandbox's containers have. Each of them is
// mounted in the share once, under a name that is never used again while the sandbox lives: the
// guest may remember what a name led to. Containers of a pod that share a volume meet in one mount:
// sockets, FIFOs, locks, shared mappings and inotify events work between them. Its methods may be
// called at once.
type Volumes struct {
	share *Share

	mu   sync.Mutex
	list map[plan.VolumeKey]*volume
	next int // names the next one
}

// volume is a folder or file in the share. It is there as long as a container has it, and read-only
// as long as no container may write to it.
type volume struct {
	name    string
	top     *os.File // of its mount
	locked  bool     // the host has it read-only: so it stays
	readers int
	writers int
}

// NewVolumes makes the volumes of a share, of which there are none yet. It is made once for a
// sandbox, since the names are counted there.
func NewVolumes(share *Share) *Volumes {
	return &Volumes{share: share, list: map[plan.VolumeKey]*volume{}}
}

// Use is a container's hold on a volume. Top is the Volumes' to close, and good until Release.
type Use struct {
	Name string // in the share
	Top  *os.File

	volumes  *Volumes
	key      plan.VolumeKey
	readOnly bool
}

// Add shows a volume of a container in the share, unless it is there already. Release ends the
// container's use of it. files must be those that p was planned from. The key has device, inode,
// mount, owners and what holds below, so two volumes with one key differ in nothing that the guest
// could see.
func (v *Volumes) Add(p plan.Volume, files *Files) (*Use, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.list[p.Key]
	if one == nil {
		var err error
		if one, err = v.mount(p, files.sources[p.Mount].file); err != nil {
			return nil, err
		}
		v.list[p.Key] = one
	}
	// All who have it so far have it read-only, and so has the host. The guest's bind mounts keep
	// it read-only for them.
	if !p.ReadOnly && one.writers == 0 && one.readers > 0 && !one.locked {
		if err := v.share.setReadOnly(one, false); err != nil {
			return nil, fmt.Errorf("make %q writable, which another container has mounted read-only: %w", p.Destination, err)
		}
	}
	if p.ReadOnly {
		one.readers++
	} else {
		one.writers++
	}
	return &Use{Name: one.name, Top: one.top, volumes: v, key: p.Key, readOnly: p.ReadOnly}, nil
}

// mount shows a file of the host in the share. The order of the calls matters: a mount is
// restricted before it has a place that the guest sees.
func (v *Volumes) mount(p plan.Volume, file *os.File) (*volume, error) {
	folder, err := isFolder(file)
	if err != nil {
		return nil, err
	}
	// A mount that the host has read-only must not become writable by way of a copy.
	locked, err := isReadOnly(file)
	if err != nil {
		return nil, err
	}
	tree, err := clone(file, p.Key.Recursive)
	if err != nil {
		return nil, err
	}
	if err = restrict(tree, p); err == nil && p.ReadOnly {
		err = setReadOnly(tree, true)
	}
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	name := strconv.Itoa(v.next)
	if err := v.share.attach(tree, guestapi.ShareVolume(name), folder); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	// A name counts as used once it was visible, even if the container's start fails later.
	v.next++
	return &volume{name: name, top: tree, locked: locked}, nil
}

// Watch begins to watch what the host changes in the volume. It is opened by the mount in the
// share, so that it sees what the guest sees, and is the caller's to close.
func (u *Use) Watch() (*watch.Tree, error) { return watch.Open(u.Top) }

// Release ends a container's use of a volume, which goes with the last of them. It is called once.
// On an error the volume counts as released, and what is left goes with the mount namespace.
func (u *Use) Release() error {
	v := u.volumes
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.list[u.key]
	if u.readOnly {
		one.readers--
	} else {
		one.writers--
	}
	switch {
	case one.readers+one.writers == 0:
		delete(v.list, u.key)
		return errors.Join(one.top.Close(), v.share.remove(guestapi.ShareVolume(one.name)))
	case one.writers == 0 && !u.readOnly:
		// A guest that still has a file open for writing keeps the mount writable (EBUSY), as it
		// was until now.
		if err := v.share.setReadOnly(one, true); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// restrict prepares a tree that is mounted nowhere for the file server: the guest alone decides
// what a device node or a set-uid bit means. A volume whose mount asks for it follows what the host
// mounts below it later (slave); all others are cut off from the host's (private).
func restrict(tree *os.File, p plan.Volume) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	if p.Key.ReadOnlyBelow {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if p.Key.Follows {
		attr.Propagation = unix.MS_SLAVE
	}
	if err := setAttr(tree, true, &attr); err != nil {
		return fmt.Errorf("restrict %q: %w", tree.Name(), err)
	}
	if err := mapOwners(tree, p.IDs, p.Key.OwnersBelow); err != nil {
		return fmt.Errorf("owners of %q: %w", tree.Name(), err)
	}
	return nil
}

// isReadOnly says whether the mount through which a file was opened is read-only on the host. A
// read-only file system shows the same flag, and stays read-only all the same.
func isReadOnly(f *os.File) (bool, error) {
	defer runtime.KeepAlive(f)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// setReadOnly changes a volume that is mounted, in the file server's mount namespace first: its
// mount is a copy that does not follow, and it is the one that a guest's open files keep busy.
func (s *Share) setReadOnly(v *volume, readOnly bool) error {
	if s.server != nil {
		err := s.server.Do(func() error {
			top, err := sys.OpenBelow(s.served, guestapi.ShareVolume(v.name), unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer top.Close() // O_PATH
			return setReadOnly(top, readOnly)
		})
		if err != nil {
			return err
		}
	}
	return setReadOnly(v.top, readOnly)
}

// setReadOnly changes the mount itself, and none below it. What is mounted below was decided by the
// plan when the tree was made.
func setReadOnly(tree *os.File, readOnly bool) error {
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if readOnly {
		attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	if err := setAttr(tree, false, &attr); err != nil {
		return fmt.Errorf("read-only of %q: %w", tree.Name(), err)
	}
	return nil
}
