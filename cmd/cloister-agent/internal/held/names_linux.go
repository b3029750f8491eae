// SPDX-License-Identifier: Apache-2.0

package held

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sys"
)

// The names. First is the network namespace that the kernel began with, where the agent has left
// it.
const (
	Net   = "net"
	IPC   = "ipc"
	UTS   = "uts"
	PID   = "pid"
	User  = "user"
	First = "first"
)

const (
	dir        = guestapi.Namespaces
	folderMode = 0o755
	fileMode   = 0o444
)

// Hold gives a process's namespace a name: kind is what /proc calls it. The process may end
// afterwards: the bind mount holds the namespace. The name must be free.
func Hold(pid int, kind, name string) error {
	target := dir + "/" + name
	err := os.MkdirAll(dir, folderMode)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, fileMode)
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		// A file without a mount on it would make Has lie.
		if err = unix.Mount(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), target, "", unix.MS_BIND, ""); err != nil {
			err = errors.Join(err, os.Remove(target))
		}
	}
	if err != nil {
		return fmt.Errorf("hold namespace %s: %w", name, err)
	}
	return nil
}

// Open opens the namespace of a name; os.ErrNotExist says that there is none. The caller closes the
// file.
func Open(name string) (*os.File, error) { return os.Open(dir + "/" + name) }

// Has says whether there is one. It tells of the name alone; Hold leaves none without a namespace.
func Has(name string) bool {
	_, err := os.Stat(dir + "/" + name)
	return err == nil
}

// InFirst runs f in the network namespace that the kernel began with: it has the kernel's events,
// of which it tells no other user namespace. It runs on a thread of its own, which never runs
// anything else. Where the agent has not left the first namespace, f runs as it is.
func InFirst(f func() error) error {
	ns, err := Open(First)
	if errors.Is(err, os.ErrNotExist) {
		return f()
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.Namespaces{Network: ns}.Do(f)
}
