// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultPorts is the kernel's own range of local ports, for a namespace whose earlier
// range is not known (inet_init_net of the kernel's net/ipv4/af_inet.c).
const DefaultPorts = "32768 60999"

// Claim is a network namespace whose host side has the ports that a sandbox leaves it. Claims are
// for a sandbox whose record cannot be read: the range of ports is the only mark in the namespace
// itself.
type Claim struct {
	Path     string // where it is mounted, or below /proc/PID/ns
	Identity string // as Identity gives it
}

// Claims lists the claimed namespaces of this host that a mount or a process holds. The caller's
// own is never among them. Any claimed namespace may be another sandbox's that lives: the caller
// tells by InNamespace whose processes are in it.
func Claims() ([]Claim, error) {
	paths, err := mountedNamespaces()
	if err != nil {
		return nil, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	own, err := identityOf("/proc/thread-self/ns/net") // the main thread may be elsewhere
	if err != nil {
		return nil, err
	}
	// The caller's namespace is the host's. An administrator who has set the same range there would
	// have it changed by a cleanup.
	seen := map[string]bool{own: true}
	var out []Claim
	for _, path := range append(paths, processes...) {
		identity, err := identityOf(path)
		if err != nil || seen[identity] {
			continue // it has gone meanwhile
		}
		seen[identity] = true
		if claimed(path) {
			out = append(out, Claim{path, identity})
		}
	}
	return out, nil
}

// InNamespace reports whether a process is in a namespace, by the namespace's identity. A process
// that has ended is in none.
func InNamespace(pid int, identity string) bool {
	have, err := identityOf("/proc/" + strconv.Itoa(pid) + "/ns/net")
	return err == nil && have == identity
}

// claimed compares the whole range, not its first port: a host may well begin its range at the same
// port.
func claimed(path string) bool {
	n, err := Open(path)
	if err != nil {
		return false
	}
	defer n.Close()
	_, ports, err := n.Identity()
	return err == nil && ports == ownPorts()
}

// identityOf gives device and inode of a namespace, which name it until the last reference is gone.
// The number may be given out again after that, so a record keeps the boot as well.
func identityOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// mountedNamespaces are the files that network namespaces are mounted on (proc_pid_mountinfo(5)).
// CNI and Docker keep a namespace without a process by such a mount.
func mountedNamespaces() ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, errors.Join(errors.New("find network namespaces"), err)
	}
	var out []string
	for line := range strings.Lines(string(table)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 4 && strings.HasPrefix(f[3], "net:[") && strings.HasPrefix(after, "nsfs ") {
			out = append(out, f[4])
		}
	}
	return out, nil
}
