// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Tree is all that a process finds below its root directory, from its exec on: its program, the
// libraries, what the C library reads, the files named here, the null device, urandom and a /proc.
// Each has the name that it has on the host, and can be read alone. Symbolic links on the way are
// there too, so a name leads where it leads on the host. The rest of the host is not mounted in its
// mount namespace.
type Tree struct {
	// Read are files and folders. One that is missing is an error.
	Read []string
	// Optional are files and folders that a host may lack.
	Optional []string
	// Devices are nodes, which must be there.
	Devices []string
	// Label, when not empty, is the security label of the tree's own folders (mount option
	// context): the process must be allowed to search them.
	Label string
}

// SeesOnly gives the jail with the tree, unless the part root is off. It is a method of a value: j
// itself stays as it is. The jail needs a Root.
func (j Jail) SeesOnly(c Config, t Tree) Jail {
	if c.Has(RootDir) {
		j.Tree = &t
	}
	return j
}

// cLibrary is what the C library reads. With /etc/alternatives, links choose between libraries.
func cLibrary() []string {
	return []string{"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/alternatives"}
}

// libraries are the folders in which the usual distributions have them.
func libraries() []string {
	var found []string
	for _, folder := range []string{"/", "/usr", "/usr/local"} {
		for _, name := range []string{"lib", "lib32", "lib64"} {
			found = append(found, path.Join(folder, name))
		}
	}
	return found
}

// Attributes of mounts. A library is mapped as code, so it cannot be noexec. The program is not
// nosuid, which would ask SELinux's policy for one more permission (nosuid_transition): it runs
// with no_new_privs, and nothing else is executed.
const (
	treeProgram = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV
	treeCode    = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	treeData    = treeCode | unix.MOUNT_ATTR_NOEXEC
	treeDevice  = treeData &^ unix.MOUNT_ATTR_NODEV
)

// maxTreeLinks bounds the symbolic links of one name, as the kernel does (MAXSYMLINKS).
const maxTreeLinks = 40

// narrow makes the tree of a program the root directory of the namespace, and takes everything away
// that is not in it. With hostProc the host's /proc is in it; otherwise it has an empty folder of
// that name, for a /proc of the process's own. It is called before a process is in the namespace.
func (r *Root) narrow(t Tree, program string, hostProc bool) error {
	if r == nil {
		return errors.New("small root directory: it needs a mount namespace")
	}
	if !filepath.IsAbs(program) {
		return &os.PathError{Op: "small root directory", Path: program, Err: errors.New("want an absolute path")}
	}
	loader, err := loaderOf(program)
	if err != nil {
		return err
	}
	err = r.Do(func() error {
		top, err := newTree(t.Label)
		if err != nil {
			return err
		}
		defer top.Close() // O_PATH
		old, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer old.Close() // O_PATH
		// Only in a mounted file system can others be mounted. Descriptors of the host's files
		// lead below it.
		if err := moveMount(top, old); err != nil {
			return err
		}
		if err := (&planting{host: old, top: top, bound: map[string]bool{}}).all(t, program, loader, hostProc); err != nil {
			return err
		}
		if err := setAttr(top, treeData, 0); err != nil {
			return err
		}
		if err := pivot(int(top.Fd()), int(old.Fd())); err != nil {
			return Config{}.RootError(err)
		}
		return r.arrive()
	})
	if err != nil {
		return fmt.Errorf("small root directory: %w", err)
	}
	return nil
}

// newTree is a detached, empty file system in memory.
func newTree(label string) (*os.File, error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	defer unix.Close(fsfd)
	options := []struct{ name, value string }{{"source", "cloister"}, {"mode", "0755"}, {"context", label}}
	for _, o := range options {
		if o.value == "" {
			continue
		}
		if err := unix.FsconfigSetString(fsfd, o.name, o.value); err != nil {
			return nil, fmt.Errorf("tmpfs: option %s=%s: %w", o.name, o.value, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	// Writable until it has its folders.
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, treeData&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "tree"), nil
}

// planting fills a tree from the host's files. It runs on a thread of the namespace that has both.
type planting struct {
	host, top *os.File        // O_PATH: the root directories
	bound     map[string]bool // names, relative to the top, that are mounted
}

// all plants everything. Folders come first: what is below one needs no mount of its own.
func (p *planting) all(t Tree, program, loader string, hostProc bool) error {
	for _, w := range []struct {
		names    []string
		attr     uint64
		optional bool
	}{
		{libraries(), treeCode, true},
		{cLibrary(), treeData, true},
		{[]string{program}, treeProgram, false},
		{[]string{loader}, treeCode, false},
		{t.Read, treeData, false},
		{t.Optional, treeData, true},
		{append([]string{"/dev/null", "/dev/urandom"}, t.Devices...), treeDevice, false},
	} {
		for _, name := range w.names {
			if name == "" { // a static program has no loader
				continue
			}
			if err := p.plant(name, w.attr); err != nil && (!w.optional || !errors.Is(err, fs.ErrNotExist)) {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if hostProc {
		return p.plant("/proc", treeData)
	}
	proc, err := p.folder([]string{"proc"})
	if err != nil {
		return err
	}
	return proc.Close()
}

// plant mounts a file or folder of the host under its own name. Each component is opened by itself
// and never followed as a link: exactly what was opened is mounted.
func (p *planting) plant(name string, attr uint64) error {
	var at []string // resolved, without links
	rest := split(name)
	for links := 0; len(rest) > 0; {
		next := rest[0]
		rest = rest[1:]
		if next == ".." {
			at = at[:max(0, len(at)-1)]
			continue
		}
		at = append(at, next)
		found, err := sys.OpenBelow(p.host, path.Join(at...), unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		target, isLink, err := readLink(found)
		switch {
		case err != nil:
		case isLink:
			if links++; links > maxTreeLinks {
				err = unix.ELOOP
				break
			}
			err = p.link(at, target)
			at = at[:len(at)-1]
			if strings.HasPrefix(target, "/") {
				at = nil
			}
			rest = append(split(target), rest...)
		case len(rest) == 0:
			err = p.bind(found, at, attr)
		}
		if err := errors.Join(err, found.Close()); err != nil {
			return err
		}
	}
	if len(at) == 0 {
		return errors.New("is the root directory itself")
	}
	return nil
}

// covered says that the name is, or is below, what is mounted already.
func (p *planting) covered(at []string) bool {
	for i := range at {
		if p.bound[path.Join(at[:i+1]...)] {
			return true
		}
	}
	return false
}

// link makes a symbolic link as the host has it.
func (p *planting) link(at []string, target string) error {
	if p.covered(at) {
		return nil
	}
	folder, err := p.folder(at[:len(at)-1])
	if err != nil {
		return err
	}
	defer folder.Close() // O_PATH
	err = unix.Symlinkat(target, int(folder.Fd()), at[len(at)-1])
	if err != nil && !errors.Is(err, unix.EEXIST) { // of another name before
		return &os.PathError{Op: "symlink", Path: path.Join(at...), Err: err}
	}
	return nil
}

// bind mounts a copy of what was opened.
func (p *planting) bind(found *os.File, at []string, attr uint64) error {
	if p.covered(at) {
		return nil
	}
	place, err := p.place(found, at)
	if err != nil {
		return err
	}
	defer place.Close() // O_PATH
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	fd, err := unix.OpenTree(int(found.Fd()), "", flags)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: found.Name(), Err: err}
	}
	tree := os.NewFile(uintptr(fd), found.Name())
	defer tree.Close() // O_PATH
	if err := errors.Join(setAttr(tree, attr, unix.AT_RECURSIVE), moveMount(tree, place)); err != nil {
		return err
	}
	p.bound[path.Join(at...)] = true
	return nil
}

// place is an empty folder or file to mount on. The caller closes it.
func (p *planting) place(found *os.File, at []string) (*os.File, error) {
	info, err := found.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return p.folder(at)
	}
	parent, err := p.folder(at[:len(at)-1])
	if err != nil {
		return nil, err
	}
	defer parent.Close() // O_PATH
	made, err := sys.OpenBelow(parent, at[len(at)-1], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return nil, err
	}
	if err := made.Close(); err != nil {
		return nil, err
	}
	return sys.OpenBelow(parent, at[len(at)-1], unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// folder makes a folder of the tree and those before it. Others may search them whatever the umask
// is. The caller closes it.
func (p *planting) folder(at []string) (*os.File, error) {
	dir, err := sys.OpenBelow(p.top, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	for _, name := range at {
		if err != nil {
			return nil, err
		}
		next, openErr := sys.OpenBelow(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(openErr, fs.ErrNotExist) {
			if next, openErr = sys.MkdirBelow(dir, name, 0o755); openErr == nil {
				openErr = unix.Fchmodat(int(dir.Fd()), name, 0o755, 0)
			}
		}
		_ = dir.Close() // O_PATH
		dir, err = next, openErr
	}
	return dir, err
}

// readLink tells where a link leads that was opened with O_PATH.
func readLink(f *os.File) (target string, isLink bool, err error) {
	defer runtime.KeepAlive(f)
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", false, err
	}
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", text)
	if err != nil {
		return "", true, &os.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return string(text[:n]), true, nil
}

// split gives the components of a path; .. stays, since a link may stand before it.
func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// moveMount puts a detached mount on a folder or file.
func moveMount(tree, on *os.File) error {
	defer runtime.KeepAlive(tree)
	defer runtime.KeepAlive(on)
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(tree.Fd()), "", int(on.Fd()), "", flags); err != nil {
		return &os.PathError{Op: "move_mount", Path: on.Name(), Err: err}
	}
	return nil
}

// setAttr adds attributes to a mount.
func setAttr(tree *os.File, attr uint64, flags uint) error {
	defer runtime.KeepAlive(tree)
	set := unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(int(tree.Fd()), "", flags|unix.AT_EMPTY_PATH, &set); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: tree.Name(), Err: err}
	}
	return nil
}
