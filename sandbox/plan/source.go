// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"

	"cloister/oci"
)

// FileKind is what a file of the host is.
type FileKind string

// The kinds of files.
const (
	Folder      FileKind = "folder"
	RegularFile FileKind = "file"
	Socket      FileKind = "socket"
	FIFO        FileKind = "fifo"
	Device      FileKind = "device"
	Link        FileKind = "link" // only of a file that must not be reached through one
)

// FileID tells one file of the host from every other while somebody holds it open. Device and inode
// alone are not enough: the same folder through another mount may be read-only, or hide what is
// mounted below it.
type FileID struct {
	Device string // MAJOR:MINOR of its file system
	Inode  uint64
	Mount  uint64 // the mount that it was reached through
}

// Source is what was found at the source of a bind mount. Whoever found it holds the file open:
// what becomes of the name later does not matter. The zero Source is that of a mount that names no
// file of the host.
type Source struct {
	Name string // as the engine gave it, made absolute
	Real string // the name without links that the file had when it was opened
	Kind FileKind
	ID   FileID
	FS   int64  // magic number of its file system, as statfs(2) gives it
	Mode uint32 // permission bits
	UID  uint32
	GID  uint32
	// MountsBelow is whether the host has mounts below it.
	MountsBelow bool
	// Problem is why it could not be opened; empty: it was.
	Problem string
	// Unmappable is why its file system cannot show other owners; empty: it can, or no map is asked
	// for.
	Unmappable string
}

// Rules are the parts of the host's configuration that decide about sources. All names are without
// links.
type Rules struct {
	Sockets []string // sockets, or folders of them, that may be volumes
	Watch   []string // folders whose changes raise events in guests
	Labels  []LabelRule
}

// below says that a file is in the list, or below a folder that is. Both are clean paths without
// links; /a/b is not below /a/bc.
func below(file string, list []string) bool {
	for _, name := range list {
		if file == name || strings.HasPrefix(file, strings.TrimSuffix(name, "/")+"/") {
			return true
		}
	}
	return false
}

// copyProblem says why a file cannot be copied into the guest, and what to do; empty: it can.
func (s Source) copyProblem() string {
	switch {
	case s.Problem != "":
		return s.Problem
	case s.Kind == RegularFile:
		return ""
	case s.Kind == Link:
		return "is a symbolic link, and whoever can change it chooses the file: name the file that it leads to"
	default:
		return fmt.Sprintf("is a %s, want a regular file", s.Kind)
	}
}

// volumeProblem says why a file cannot be shared with a guest, and what to do; empty: it can. The
// order matters: a file of the kernel's own file systems is refused whatever kind it is, since its
// size of 0 has the guest read nothing.
func (s Source) volumeProblem(sockets []string) string {
	switch {
	case s.Problem != "":
		return s.Problem
	case oci.KernelFS(s.Real, s.FS) != "":
		return oci.KernelFS(s.Real, s.FS)
	case s.Kind == Folder, s.Kind == RegularFile:
		return ""
	case s.Kind == Socket && below(s.Real, sockets):
		return ""
	case s.Kind == Socket:
		return "is a socket, and whoever listens there would have a guest as its client: " +
			"list it under workloads.sockets in cloister's configuration, or use a network address"
	case s.Kind == Device:
		return "is a device: name it under linux.devices (--device) instead of binding it"
	case s.Kind == FIFO:
		return "is a FIFO, whose other end would be in another kernel: use a network address, or a process in the same pod"
	default:
		return "is neither a folder nor a file"
	}
}

// problem says why a bind mount of this source cannot be honoured; empty: it can.
func (s Source) problem(m oci.Mount, sockets []string) string {
	if m.Purpose.Copied() {
		return s.copyProblem()
	}
	return s.volumeProblem(sockets)
}
