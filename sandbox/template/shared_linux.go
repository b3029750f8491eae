// SPDX-License-Identifier: Apache-2.0

package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Shared is a template's memory as sandboxes map it copy-on-write, at its place in the guest's
// memory. It is a memfd, sealed: the kernel lets nobody write to it, whoever has it open for
// writing, and QEMU before 8.2 opens it so. It is there as long as a process has it open; every
// shim whose sandbox maps it does, and says so by a note in the store. Close it.
type Shared struct {
	File *os.File
	note string // empty: none could be written, and others make their own
}

// Seals are the seals of a Shared's file.
const Seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// sharedPrefix names the folder of the notes about a template's Shared.
const sharedPrefix = "shared-"

// shareLimit is how long another start's copy is waited for. After that this one makes its own: a
// shim that is stopped holds nobody up.
const shareLimit = 2 * time.Second

// note says who has a template's memory open. Nothing in it is believed: the file must be the same
// one, unchanged since it was made from a memory with that digest, and sealed.
type note struct {
	PID  int  `json:"pid"`
	FD   int  `json:"fd"`
	Seen seen `json:"seen"` // SHA256 is that of the template's memory
}

// Share gives a template's memory. The one that other sandboxes have is taken if there is any, else
// one is made. Its pages are charged to the cgroup of the process that makes it, which is a shim's
// and not a sandbox's: no tenant pays for what others use. label labels a new one, before its note
// is written.
func (s Store) Share(t *Template, label func(*os.File) error) (_ *Shared, err error) {
	folder := s.path(sharedPrefix + t.Manifest.ID)
	// Without folder or lock, the memory is only this sandbox's. That is no error.
	if lock, err := lockShared(folder, shareLimit); err == nil {
		defer lock.Close() // read only
	}
	f := findShared(folder, t.Manifest.Memory.SHA256)
	if f == nil {
		if f, err = t.seal(label); err != nil {
			return nil, err
		}
	}
	now, err := look(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	now.SHA256 = t.Manifest.Memory.SHA256
	h := &Shared{File: f}
	data, err := json.Marshal(note{os.Getpid(), int(f.Fd()), now})
	name := filepath.Join(folder, fmt.Sprintf("%d-%d", os.Getpid(), f.Fd()))
	if err == nil && os.WriteFile(name, data, 0o600) == nil {
		h.note = name
	}
	return h, nil
}

// Close lets go of the memory. Sandboxes that have mapped it keep it. The folder of the notes goes
// with the last one.
func (h *Shared) Close() error {
	if h.note == "" {
		return h.File.Close()
	}
	folder := filepath.Dir(h.note)
	lock, locked := lockFolder(folder, shareLimit)
	err := ignoreMissing(os.Remove(h.note))
	if locked == nil {
		_ = unix.Rmdir(folder) // others have notes in it, as a rule
		_ = lock.Close()       // read only
	}
	return errors.Join(err, h.File.Close())
}

// seal makes a file of the template's memory that never changes again. Its mode has every user open
// it, since each QEMU has a user of its own and opens it by name (/proc/self/fd/N). Nobody finds it
// but who has been given a descriptor.
func (t *Template) seal(label func(*os.File) error) (*os.File, error) {
	fd, err := unix.MemfdCreate("template-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make the template's shared memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "template-memory")
	err = errors.Join(f.Truncate(int64(t.Manifest.Key.MemoryMiB)<<20), f.Chmod(0o666), label(f))
	if err == nil {
		err = Fill(f, t.memory, t.Manifest.Extents)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, Seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the template's shared memory: %w", err), f.Close())
	}
	return f, nil
}

// lockShared makes the folder and takes its lock, which goes with the process.
func lockShared(folder string, limit time.Duration) (*os.File, error) {
	for end := time.Now().Add(limit); ; {
		if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		dir, err := lockFolder(folder, time.Until(end))
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return dir, err
		}
	}
}

// lockFolder takes a folder's lock. A folder that was removed before it was locked is
// fs.ErrNotExist; without a limit, one that another has locked is EWOULDBLOCK.
func lockFolder(folder string, limit time.Duration) (*os.File, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	const poll = 5 * time.Millisecond
	for end := time.Now().Add(limit); ; {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
		time.Sleep(poll) //nolint:forbidigo // flock has no limit of its own
	}
	if err == nil {
		err = named(dir, folder)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// named is fs.ErrNotExist if an open folder is not the one of that name any more.
func named(dir *os.File, name string) error {
	have, err := dir.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(name)
	if err == nil && !os.SameFile(have, now) {
		err = &fs.PathError{Op: "lock", Path: name, Err: fs.ErrNotExist}
	}
	return err
}

// findShared gives the memory that a note leads to, nil for none. Notes that lead to none go: their
// process has ended, or its number is another one's.
func findShared(folder, sum string) *os.File {
	names, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	for _, e := range names {
		name := filepath.Join(folder, e.Name())
		n, err := readNote(name)
		if err != nil || n.Seen.SHA256 != sum {
			_ = os.Remove(name) // of a template that was replaced, or damaged
			continue
		}
		f, err := n.open()
		if err == nil {
			return f
		}
		if isStale(err) {
			_ = os.Remove(name)
		}
	}
	return nil
}

func readNote(name string) (n note, err error) {
	data, err := readBounded(name, 1<<10)
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
	}
	return n, nil
}

// isStale tells by the error of a note's open that the note leads nowhere for anybody. Too few
// descriptors, and a process that this one may not look into, say nothing of it.
func isStale(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, ErrDamaged)
}

// open opens the memory that the note speaks of. O_PATH comes first: a process that has the number
// by now may have a FIFO there, and opening that would wait for a writer.
func (n note) open() (*os.File, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", n.PID, n.FD)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	found := os.NewFile(uintptr(fd), path)
	defer found.Close() // O_PATH
	now, err := look(found)
	if err != nil {
		return nil, err
	}
	if now.SHA256 = n.Seen.SHA256; now != n.Seen {
		return nil, fmt.Errorf("%s: %w", path, ErrDamaged)
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	if err := CheckSeals(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// CheckSeals is an error if somebody could still change a file.
func CheckSeals(f *os.File) error {
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("seals of %s: %w: %w", f.Name(), err, ErrDamaged)
	}
	if have&Seals != Seals {
		return fmt.Errorf("%s has seals %#x, want %#x: %w", f.Name(), have, Seals, ErrDamaged)
	}
	return nil
}
