// SPDX-License-Identifier: Apache-2.0

package leaks

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/host"
)

// Host says where to look.
type Host struct {
	Place *host.Place
	// CgroupParent is the name of the cgroup under whose children sandboxes have theirs, in every
	// hierarchy.
	CgroupParent string
	// Folders are searched for files; those that are not there are empty.
	Folders []string
}

// Kind says what was left.
type Kind string

// The kinds that are looked for.
const (
	Process     Kind = "process"
	Mount       Kind = "mount"
	MountNS     Kind = "mountns"
	Link        Kind = "link"
	NetNS       Kind = "netns"
	Socket      Kind = "socket"
	Cgroup      Kind = "cgroup"
	File        Kind = "file"
	Reservation Kind = "reservation"
)

// Snapshot is what was there at one time: by kind, each under a name that a second look gives
// again.
type Snapshot map[Kind][]string

// Look lists what is there now.
func Look(t testing.TB, h Host) Snapshot {
	t.Helper()
	s := Snapshot{}
	h.processes(t, s)
	h.mounts(t, s)
	h.links(t, s)
	h.sockets(t, s)
	h.cgroups(t, s)
	for _, folder := range h.Folders {
		h.files(t, s, folder)
	}
	return s
}

// Compare gives a line for everything that is in after and not in before. A name that is there
// twice counts twice.
func Compare(before, after Snapshot) []string {
	var out []string
	for kind, names := range after {
		have := slices.Clone(before[kind])
		for _, name := range names {
			if i := slices.Index(have, name); i >= 0 {
				have = slices.Delete(have, i, i+1)
				continue
			}
			out = append(out, string(kind)+" "+name)
		}
	}
	slices.Sort(out)
	return out
}

// processes leaves out daemons and what tests themselves run in the place.
func (h Host) processes(t testing.TB, s Snapshot) {
	t.Helper()
	for pid, line := range h.Place.Processes(t) {
		program, _, _ := strings.Cut(line, " ")
		switch filepath.Base(program) {
		case "containerd", "ctr", "dockerd", "docker", "nsenter":
		default:
			s[Process] = append(s[Process], fmt.Sprintf("%d %.200s", pid, line))
		}
	}
}

// mounts are those of the place, and mount namespaces those that its processes or mounts hold: each
// keeps all mounts that are in it. The optional fields are left out, which have numbers of peer
// groups: the kernel gives a mount that is made anew the lowest one that is free on the whole host.
// So is the last field: it has the options of the file system, which a mount of the same one
// elsewhere changes (cgroup v2, for the whole host).
func (h Host) mounts(t testing.TB, s Snapshot) {
	t.Helper()
	for _, ino := range h.namespaces(t, "mnt", unix.CLONE_NEWNS, nil) {
		s[MountNS] = append(s[MountNS], fmt.Sprint(ino))
	}
	for _, fields := range h.table(t, "/proc/1/mountinfo") {
		if i := slices.Index(fields, "-"); i > 5 {
			named := slices.Concat(fields[4:6], fields[i+1:len(fields)-1])
			s[Mount] = append(s[Mount], strings.Join(named, " "))
		}
	}
}

func (h Host) table(t testing.TB, name string) [][]string {
	t.Helper()
	data, err := os.ReadFile(h.Place.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(data)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// links lists the network namespaces that processes of the place or mounts hold, and every link in
// them.
func (h Host) links(t testing.TB, s Snapshot) {
	t.Helper()
	h.namespaces(t, "net", unix.CLONE_NEWNET, func(ns *os.File, ino uint64) {
		s[NetNS] = append(s[NetNS], fmt.Sprint(ino))
		for _, name := range linksIn(ns) {
			s[Link] = append(s[Link], fmt.Sprintf("%s in netns %d", name, ino))
		}
	})
}

// namespaces gives the inodes of the namespaces that processes of the place or mounts hold, of the
// kind with that name in /proc/PID/ns and that flag. each, if not nil, is called with every one
// open.
func (h Host) namespaces(t testing.TB, name string, flag int, each func(ns *os.File, ino uint64)) []uint64 {
	t.Helper()
	files, err := filepath.Glob(h.Place.Path("/proc/[0-9]*/ns/" + name))
	if err != nil {
		t.Fatal(err)
	}
	for _, fields := range h.table(t, "/proc/1/mountinfo") {
		if i := slices.Index(fields, "-"); i > 0 && len(fields) > i+1 && fields[i+1] == "nsfs" {
			files = append(files, h.Place.Path(fields[4]))
		}
	}
	var seen []uint64
	for _, file := range files {
		ns, err := os.Open(file)
		if err != nil {
			continue // gone meanwhile
		}
		var st unix.Stat_t
		err = unix.Fstat(int(ns.Fd()), &st)
		kind, kindErr := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
		if err == nil && kindErr == nil && kind == flag && !slices.Contains(seen, st.Ino) {
			seen = append(seen, st.Ino)
			if each != nil {
				each(ns, st.Ino)
			}
		}
		ns.Close()
	}
	return seen
}

func linksIn(ns *os.File) []string {
	names := make(chan []string)
	go func() {
		// The thread is in another network namespace from here on: it is never unlocked, and ends
		// with the goroutine.
		runtime.LockOSThread()
		var out []string
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			links, _ := net.Interfaces() // none when the namespace is going
			for _, l := range links {
				out = append(out, l.Name)
			}
		}
		names <- out
	}()
	return <-names
}

// sockets are those of the place's network namespace that have a name.
func (h Host) sockets(t testing.TB, s Snapshot) {
	t.Helper()
	for _, fields := range h.table(t, "/proc/1/net/unix") {
		const listening = "00010000"
		if len(fields) == 8 && fields[3] == listening {
			s[Socket] = append(s[Socket], fields[7])
		}
	}
}

// hierarchies are the mount points of cgroup file systems, seen from the test.
func hierarchies() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 2 && (fields[2] == "cgroup" || fields[2] == "cgroup2") {
			out = append(out, fields[1])
		}
	}
	return out, nil
}

func (h Host) cgroups(t testing.TB, s Snapshot) {
	t.Helper()
	tops, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		parent := filepath.Join(top, h.CgroupParent)
		walk(t, parent, func(path string, entry fs.DirEntry) {
			if entry.IsDir() && path != parent {
				s[Cgroup] = append(s[Cgroup], path)
			}
		})
	}
}

// RemoveCgroups removes a parent of cgroups that is empty.
func RemoveCgroups(t testing.TB, parent string) {
	t.Helper()
	tops, err := hierarchies()
	if err != nil {
		t.Error(err)
	}
	for _, top := range tops {
		if err := os.Remove(filepath.Join(top, parent)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Logf("cgroup %s: %v", parent, err)
		}
	}
}

// files lists what is in a folder of the place. A level's file is a reservation.
func (h Host) files(t testing.TB, s Snapshot, folder string) {
	t.Helper()
	top := h.Place.Path(folder)
	walk(t, top, func(path string, entry fs.DirEntry) {
		name := folder + strings.TrimPrefix(path, top)
		switch {
		case path == top, isStore(strings.TrimPrefix(path, top+"/")):
		case entry.Type() == fs.ModeSocket:
			s[Socket] = append(s[Socket], "file "+name)
		case strings.Contains(name, "/mcs/") && (strings.Contains(name, "/pairs/") || strings.Contains(name, "/wide/")):
			s[Reservation] = append(s[Reservation], name)
		default:
			s[File] = append(s[File], name)
		}
	})
}

// isStore tells the folders and locks that the registry of levels and the journals of labels and
// profiles are made of, and the host's counts, which the first sandbox makes and no one removes.
// What sandboxes put there is not among them.
func isStore(name string) bool {
	for _, pattern := range []string{
		"mcs", "mcs/lock", "mcs/kept", "mcs/*-*-*-*-*", "mcs/*-*-*-*-*/pairs", "mcs/*-*-*-*-*/shares", "mcs/*-*-*-*-*/wide",
		"verified.json", "relabel", "relabel/files", "relabel/locks", "relabel/locks/file-??",
		"relabel/locks/sandbox-??", "relabel/sandboxes", "relabel/files/*-*-*-*-*",
		"apparmor", "apparmor/lock", ".tally.json", ".tally.lock",
	} {
		if ok, err := filepath.Match(pattern, name); err == nil && ok {
			return true
		}
	}
	return false
}

// walk visits what is there and stays there.
func walk(t testing.TB, top string, visit func(path string, entry fs.DirEntry)) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // ENODEV: a cgroup that is being removed
			return nil
		}
		if err != nil {
			return err
		}
		visit(path, entry)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
