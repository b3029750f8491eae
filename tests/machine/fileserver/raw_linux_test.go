// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// raw is an attack of a guest's kernel that was taken over: requests that no kernel sends, or that
// the host does not allow. Nil means that it has succeeded.
type raw struct {
	name, on string
	do       func(h *host) error
	// works is the same with what a guest may send; it must succeed. Without it, the server has
	// nothing against the attack: it must succeed in a bare tree.
	works func(h *host) error
	// twin is what a server would do that did not look: made in its place, it tells the layers that
	// stop it then.
	twin *attack
}

// inside has a function work on the two folders of the tree and the file in the first.
func inside(do func(g *guest, rw, ro, file uint64) error) func(*host) error {
	return func(h *host) error {
		rw, err := h.guest.find("c", "rw")
		if err != nil {
			return err
		}
		ro, err := h.guest.find("v", "ro")
		if err != nil {
			return err
		}
		file, err := h.guest.lookup(rw, "file")
		if err != nil {
			return err
		}
		return do(h.guest, rw, ro, file)
	}
}

// rawAttacks are all of them. dir is what the tree lies in.
func rawAttacks(dir string) []raw {
	all := rawNames(dir)
	all = append(all, forgedNodes()...)
	all = append(all, readOnly()...)
	all = append(all, moves()...)
	return append(all, special()...)
}

// rawNames are names that a guest's kernel never sends, by operation (CVE-2026-47243).
func rawNames(dir string) []raw {
	outside := []string{
		"../secret", "../../secret", "../../../secret", "../../../../../../../../etc/passwd", "/etc/passwd",
		filepath.Join(dir, "secret"), "file/../../secret", "./../secret", "..\x00", "/", "a/b", "..",
	}
	const mode = unix.S_IFREG | 0o644
	up := strings.Repeat("../", 12)
	var all []raw
	for _, o := range []struct {
		name, twin string // twin is the name outside; empty: the kernel keeps it in its mount
		do         func(g *guest, rw, file uint64, n string) error
	}{
		{"lookup", "/secret", func(g *guest, rw, _ uint64, n string) error { _, err := g.lookup(rw, n); return err }},
		{"create", "/new", func(g *guest, rw, _ uint64, n string) error { _, err := g.create(rw, n, 0o644); return err }},
		{"mkdir", "/new", func(g *guest, rw, _ uint64, n string) error { _, err := g.mkdir(rw, n); return err }},
		{"mknod", "/new", func(g *guest, rw, _ uint64, n string) error { _, err := g.mknod(rw, n, mode, 0); return err }},
		{"symlink", "/new", func(g *guest, rw, _ uint64, n string) error { _, err := g.symlink(rw, n, "x"); return err }},
		{"unlink", "/secret", func(g *guest, rw, _ uint64, n string) error { return g.unlink(rw, n) }},
		{"link", "", func(g *guest, rw, file uint64, n string) error { _, err := g.link(file, rw, n); return err }},
		{"rename", "", func(g *guest, rw, _ uint64, n string) error {
			if _, err := g.mknod(rw, "moved", mode, 0); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
			return g.rename(rw, "moved", rw, n, 0)
		}},
	} {
		r := raw{name: "raw names: " + o.name, on: "names with /, .., NUL, absolute ones"}
		r.do = inside(func(g *guest, rw, _, file uint64) (err error) {
			for _, n := range outside {
				// The parent folder in the tree is found by its name, as NFS exports ask.
				if o.name == "lookup" && strings.Trim(n, ".\x00") == "" {
					continue
				}
				if err = o.do(g, rw, file, n); err == nil {
					return nil
				}
				if errors.Is(err, errDied) {
					return err
				}
			}
			return err
		})
		r.works = inside(func(g *guest, rw, _, file uint64) error {
			switch o.name {
			case "lookup":
				return o.do(g, rw, file, "file")
			case "unlink":
				if _, err := g.mknod(rw, "unlinked", mode, 0); err != nil {
					return err
				}
				return o.do(g, rw, file, "unlinked")
			}
			return o.do(g, rw, file, "plain-"+o.name)
		})
		if o.twin != "" {
			r.twin = &attack{do: "name", args: []string{o.name, treeWord + "/c/rw", up + filepath.Join(dir, o.twin)}}
		}
		all = append(all, r)
	}
	return append(all, raw{
		name: "raw names: .., step by step", on: "a file beside the tree", works: all[0].works,
		twin: &attack{do: "name", args: []string{"lookup", treeWord + "/c/rw", "../../../secret"}},
		do: inside(func(g *guest, rw, _, _ uint64) (err error) {
			id := rw
			for range 8 {
				if id, err = g.lookup(id, ".."); err != nil {
					return err
				}
				for _, name := range []string{"secret", "etc", "proc"} {
					if _, err = g.lookup(id, name); err == nil {
						return nil
					}
				}
			}
			return err
		}),
	})
}

// forgedNodes are nodes and handles that nobody was given. A server that took one would use memory
// that is not its own: it would be one that is taken over.
func forgedNodes() []raw {
	ids := []uint64{0, 1 << 20, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, ^uint64(0), 0xdeadbeef}
	var all []raw
	for _, o := range []struct {
		name string
		do   func(g *guest, rw, file, id uint64) error
		real func(g *guest, rw, file uint64) error
	}{
		{
			"getattr",
			func(g *guest, _, _, id uint64) error {
				_, err := g.call(opGetattr, id, words(0, 0), u64(0))
				return err
			},
			func(g *guest, _, file uint64) error {
				_, err := g.call(opGetattr, file, words(0, 0), u64(0))
				return err
			},
		},
		{
			"lookup",
			func(g *guest, _, _, id uint64) error { _, err := g.lookup(id, "secret"); return err },
			func(g *guest, rw, _ uint64) error { _, err := g.lookup(rw, "file"); return err },
		},
		{
			"link",
			func(g *guest, rw, _, id uint64) error { _, err := g.link(id, rw, "forged"); return err },
			func(g *guest, rw, file uint64) error { _, err := g.link(file, rw, "forged"); return err },
		},
		{
			"read", // of a handle
			func(g *guest, _, file, id uint64) error { _, err := g.read(file, id+64); return err },
			func(g *guest, _, file uint64) error {
				fh, err := g.open(file, unix.O_RDONLY)
				if err == nil {
					_, err = g.read(file, fh)
				}
				return err
			},
		},
	} {
		all = append(all, raw{
			name: "forged node: " + o.name, on: "ids that nobody was given",
			do: inside(func(g *guest, rw, _, file uint64) (err error) {
				for _, id := range ids {
					if err = o.do(g, rw, file, id); err == nil || errors.Is(err, errDied) {
						return err
					}
				}
				return err
			}),
			works: inside(func(g *guest, rw, _, file uint64) error { return o.real(g, rw, file) }),
		})
	}
	return all
}

// readOnly are changes of a volume through its read-only mount, and ways out of it.
func readOnly() []raw {
	const on = "a read-only volume"
	only := func(do func(g *guest, rw, ro, file, only uint64) error) func(*host) error {
		return inside(func(g *guest, rw, ro, file uint64) error {
			id, err := g.lookup(ro, "only")
			if err != nil {
				return err
			}
			return do(g, rw, ro, file, id)
		})
	}
	return []raw{
		{name: "link into", on: on, do: only(func(g *guest, _, ro, file, _ uint64) error {
			_, err := g.link(file, ro, "linked")
			return err
		})},
		{name: "link out of", on: on, do: only(func(g *guest, rw, _, _, only uint64) error {
			_, err := g.link(only, rw, "out")
			return err
		})},
		{name: "create", on: on, do: only(func(g *guest, _, ro, _, _ uint64) error {
			_, err := g.create(ro, "created", 0o644)
			return err
		})},
		{name: "chmod", on: on, do: only(func(g *guest, _, _, _, only uint64) error { return g.chmod(only, 0o600) })},
		{name: "setxattr", on: on, do: only(func(g *guest, _, _, _, only uint64) error {
			_, err := g.call(opSetxattr, only, words(1, 0), name("user.x"), []byte("x"))
			if errors.Is(err, unix.EOPNOTSUPP) { // a tmpfs before Linux 6.6 has none: the right was there
				err = nil
			}
			return err
		})},
		{name: "open for writing", on: on, do: only(func(g *guest, _, _, _, only uint64) error {
			_, err := g.open(only, unix.O_RDWR)
			return err
		})},
		{name: "copy_file_range into", on: on, do: only(func(g *guest, _, _, file, only uint64) error {
			from, err := g.open(file, unix.O_RDONLY)
			if err != nil {
				return err
			}
			to, err := g.open(only, unix.O_RDWR)
			if err == nil {
				return g.copyFileRange(file, from, only, to, 2)
			}
			// Through a handle that is for reading, then.
			if to, err = g.open(only, unix.O_RDONLY); err != nil {
				return err
			}
			return g.copyFileRange(file, from, only, to, 2)
		})},
		{name: "rename in", on: on, do: only(func(g *guest, _, ro, _, _ uint64) error {
			if err := g.rename(ro, "only", ro, "renamed", 0); err != nil {
				return err
			}
			return g.rename(ro, "renamed", ro, "only", 0)
		})},
		{name: "exchange out of", on: on, do: only(func(g *guest, rw, ro, _, _ uint64) error {
			return g.rename(ro, "only", rw, "only", unix.RENAME_EXCHANGE)
		})},
		{
			name: "write by a handle for reading", on: "a file",
			do:    only(func(g *guest, _, _, file, _ uint64) error { return writeBy(g, file, unix.O_RDONLY) }),
			works: only(func(g *guest, _, _, file, _ uint64) error { return writeBy(g, file, unix.O_RDWR) }),
		},
	}
}

// writeBy writes what is in the file already.
func writeBy(g *guest, file uint64, flags int) error {
	fh, err := g.open(file, uint32(flags))
	if err != nil {
		return err
	}
	return g.write(file, fh, "data")
}

// moves exchange and rename the folders that mounts are on. What succeeds is taken back.
func moves() []raw {
	move := func(name, on string, from, to [2]string, flags uint32) raw {
		return raw{name: name, on: on, do: func(h *host) error {
			node := func(folder string) (uint64, error) {
				if folder == "" {
					return top, nil
				}
				return h.guest.lookup(top, folder)
			}
			a, err := node(from[0])
			if err != nil {
				return err
			}
			b, err := node(to[0])
			if err != nil {
				return err
			}
			if err := h.guest.rename(a, from[1], b, to[1], flags); err != nil {
				return err
			}
			// The folders themselves may have moved: by what the host sees.
			x, y := filepath.Join(h.view, from[0], from[1]), filepath.Join(h.view, to[0], to[1])
			return unix.Renameat2(unix.AT_FDCWD, y, unix.AT_FDCWD, x, uint(flags))
		}}
	}
	return []raw{
		move("exchange of the parents", "mounts", [2]string{"", "c"}, [2]string{"", "v"}, unix.RENAME_EXCHANGE),
		move("exchange", "mounts", [2]string{"c", "rw"}, [2]string{"v", "ro"}, unix.RENAME_EXCHANGE),
		move("rename of the parent", "a mount", [2]string{"", "c"}, [2]string{"", "x"}, 0),
		move("rename", "a mount", [2]string{"c", "rw"}, [2]string{"", "x"}, 0),
	}
}

// special are files that would be more than a file to who opens them in the share: CVE-2022-0358
// for set-gid ones, which a guest's own kernel strips (docs/decisions/0063). They count as a
// success only if the share's mount lets them be what they say.
func special() []raw {
	const setGID = unix.S_IFREG | unix.S_ISGID | 0o775
	asUser := func(do func(g *guest, team uint64) error) func(*host) error {
		return func(h *host) error {
			team, err := h.guest.find("c", "rw", "team")
			if err != nil {
				return err
			}
			h.guest.uid, h.guest.gid = owner, owner
			err = do(h.guest, team)
			h.guest.uid, h.guest.gid = 0, 0
			if err != nil {
				return err
			}
			return h.effective("team/raised", unix.S_ISGID)
		}
	}
	return []raw{
		{name: "set-gid file of another group", on: "the share", do: asUser(func(g *guest, team uint64) error {
			id, err := g.create(team, "raised", setGID)
			if err != nil {
				return err
			}
			g.uid, g.gid = 0, 0 // a server that strips the bit does not keep root from it
			return g.chmod(id, setGID)
		})},
		{name: "set-uid program", on: "the share", do: func(h *host) error {
			if err := h.make("raised", unix.S_IFREG|unix.S_ISUID|0o755, 0); err != nil {
				return err
			}
			return h.effective("raised", unix.S_ISUID)
		}},
		{name: "mknod and open", on: "a device of the share", do: func(h *host) error {
			if err := h.make("zero", unix.S_IFCHR|0o666, 0x105); err != nil {
				return err
			}
			f, err := os.Open(filepath.Join(h.view, "c/rw/zero"))
			if err != nil {
				return err
			}
			return f.Close()
		}},
	}
}

// effective is nil if a file of the volume has the bit, and its mount lets it have an effect.
func (h *host) effective(name string, bit uint32) error {
	path := filepath.Join(h.view, "c/rw", name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	if st.Mode&bit == 0 {
		return fmt.Errorf("%s has mode %o", name, st.Mode)
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		return fmt.Errorf("%s has mode %o, on a mount with nosuid", name, st.Mode)
	}
	return nil
}

// make makes a node in the writable volume.
func (h *host) make(name string, mode, device uint32) error {
	rw, err := h.guest.find("c", "rw")
	if err == nil {
		_, err = h.guest.mknod(rw, name, mode, device)
	}
	return err
}
