// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Operations of FUSE (the kernel's include/uapi/linux/fuse.h).
const (
	opLookup        = 1
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opSetxattr      = 21
	opInit          = 26
	opOpendir       = 27
	opCreate        = 35
	opRename2       = 45
	opCopyFileRange = 47
)

// top is the node of the served folder.
const top = 1

// guest speaks FUSE as a guest's kernel does, but without its checks.
type guest struct {
	*front

	ended    <-chan struct{}
	uid, gid uint32
}

// call sends an operation on a node, whatever its arguments are.
func (g *guest) call(op uint32, node uint64, args ...[]byte) ([]byte, error) {
	var body []byte
	for _, a := range args {
		body = append(body, a...)
	}
	g.unique++
	head := words(uint32(40+len(body)), op)
	head = append(head, u64(g.unique)...)
	head = append(head, u64(node)...)
	head = append(head, words(g.uid, g.gid, 1, 0)...)
	g.put(append(head, body...), answerSize)
	if err := g.wait(g.ended); err != nil {
		return nil, err
	}
	out := g.memory[answer : answer+answerSize]
	size := binary.LittleEndian.Uint32(out)
	if errno := int32(binary.LittleEndian.Uint32(out[4:])); errno != 0 {
		return nil, unix.Errno(-errno)
	}
	if size < 16 || size > answerSize {
		return nil, fmt.Errorf("an answer of %d bytes", size)
	}
	return append([]byte(nil), out[16:size]...), nil
}

// begin is what a kernel sends first.
func (g *guest) begin() error {
	const announceSubmounts, killprivV2, doReaddirplus = 1 << 27, 1 << 28, 1 << 13
	_, err := g.call(opInit, 0, words(7, 31, 0, announceSubmounts|killprivV2|doReaddirplus))
	return err
}

func words(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// name is a name as the kernel sends it.
func name(s string) []byte { return append([]byte(s), 0) }

// lookup gives the node of a name.
func (g *guest) lookup(parent uint64, s string) (uint64, error) {
	return node(g.call(opLookup, parent, name(s)))
}

// find gives the node of a name below the top.
func (g *guest) find(names ...string) (id uint64, err error) {
	id = top
	for _, n := range names {
		if id, err = g.lookup(id, n); err != nil {
			return 0, fmt.Errorf("lookup %q: %w", n, err)
		}
	}
	return id, nil
}

// node is the first field of a fuse_entry_out.
func node(b []byte, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	if len(b) < 8 {
		return 0, fmt.Errorf("an entry of %d bytes", len(b))
	}
	return binary.LittleEndian.Uint64(b), nil
}

// create makes and opens a file.
func (g *guest) create(parent uint64, s string, mode uint32) (uint64, error) {
	return node(g.call(opCreate, parent, words(unix.O_RDWR|unix.O_CREAT, mode, 0, 0), name(s)))
}

func (g *guest) mkdir(parent uint64, s string) (uint64, error) {
	return node(g.call(opMkdir, parent, words(0o755, 0), name(s)))
}

func (g *guest) mknod(parent uint64, s string, mode, device uint32) (uint64, error) {
	return node(g.call(opMknod, parent, words(mode, device, 0, 0), name(s)))
}

func (g *guest) symlink(parent uint64, s, target string) (uint64, error) {
	return node(g.call(opSymlink, parent, name(s), name(target)))
}

func (g *guest) link(old, parent uint64, s string) (uint64, error) {
	return node(g.call(opLink, parent, u64(old), name(s)))
}

func (g *guest) rename(parent uint64, s string, to uint64, t string, flags uint32) error {
	_, err := g.call(opRename2, parent, u64(to), words(flags, 0), name(s), name(t))
	return err
}

func (g *guest) unlink(parent uint64, s string) error {
	_, err := g.call(opUnlink, parent, name(s))
	return err
}

func (g *guest) chmod(id uint64, mode uint32) error {
	_, err := g.call(opSetattr, id, words(1, 0), make([]byte, 6*8), words(0, 0, 0, mode, 0, 0, 0, 0))
	return err
}

// open opens a node and gives its handle.
func (g *guest) open(id uint64, flags uint32) (uint64, error) {
	return node(g.call(opOpen, id, words(flags, 0)))
}

func (g *guest) write(id, handle uint64, text string) error {
	_, err := g.call(opWrite, id, u64(handle), u64(0), words(uint32(len(text)), 0), u64(0), words(0, 0), []byte(text))
	return err
}

func (g *guest) read(id, handle uint64) (string, error) {
	b, err := g.call(opRead, id, u64(handle), u64(0), words(4096, 0), u64(0), words(0, 0))
	return string(b), err
}

func (g *guest) copyFileRange(from, fromHandle, to, toHandle, size uint64) error {
	_, err := g.call(opCopyFileRange, from, u64(fromHandle), u64(0), u64(to), u64(toHandle), u64(0), u64(size), u64(0))
	return err
}
