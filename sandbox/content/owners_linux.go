// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"cloister/oci"
)

// openUserNamespace gives a user namespace with that map, for mounts; nil for none. No process
// stays in it: the one it is made with stops before its first instruction, as a debugger's does,
// and is killed. The kernel takes the map of a mount from a user namespace alone; there is no call
// that takes the ranges. It is the caller's to close, and may be closed once a mount has it.
func openUserNamespace(ids oci.IDMap) (*os.File, error) {
	if ids.IsZero() {
		return nil, nil //nolint:nilnil // no map, no namespace
	}
	runtime.LockOSThread() // who debugs is a thread
	defer runtime.UnlockOSThread()
	// The child's user namespace would give it all capabilities there; it never runs to use them.
	// Pdeathsig: a shim that is killed here leaves no stopped process.
	child, err := os.StartProcess("/proc/self/exe", []string{"cloister-ids"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: processIDs(ids.UIDs), GidMappings: processIDs(ids.GIDs),
		Ptrace: true, Pdeathsig: unix.SIGKILL,
	}})
	if err != nil {
		return nil,
			fmt.Errorf("user namespace for %v: the host's sysctl user.max_user_namespaces and kernel.yama.ptrace_scope "+
				"(below 3) must allow it: %w", ids, err)
	}
	// The descriptor holds the namespace after the process has gone.
	ns, err := os.Open("/proc/" + strconv.Itoa(child.Pid) + "/ns/user")
	err = errors.Join(err, child.Kill())
	if _, waitErr := child.Wait(); waitErr != nil {
		err = errors.Join(err, waitErr)
	}
	if err != nil && ns != nil {
		err = errors.Join(err, ns.Close())
	}
	return ns, err
}

// processIDs writes a map as os/exec takes it.
func processIDs(list []oci.IDRange) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, r := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)}
	}
	return out
}

// mapOwners has a mount that nobody sees yet show its files' owners through a map; below says those
// of the mounts below it, too. An empty map changes nothing. The kernel allows it only before the
// mount has a place in a tree, and once for each mount.
func mapOwners(tree *os.File, ids oci.IDMap, below bool) error {
	ns, err := openUserNamespace(ids)
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close() // a namespace's descriptor has nothing to write
	err = setAttr(tree, below, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: its file system cannot be id-mapped by this kernel, or is mapped already: keep it on one that can "+
			"(ext4, xfs, btrfs; tmpfs from Linux 6.3), or use no user namespace", err)
	}
	return err
}

// tryOwners says whether a file can be shown with other owners, before there is a machine for it.
// The same calls as later, on a copy: asking the kernel is better than a list of file systems,
// which grows with each version.
func tryOwners(f *os.File, ids oci.IDMap, recursive, below bool) error {
	tree, err := clone(f, recursive)
	if err != nil {
		return err
	}
	defer tree.Close() // mounted nowhere
	return mapOwners(tree, ids, below)
}
