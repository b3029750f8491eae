// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of vhost-user (QEMU's docs/interop/vhost-user.rst).
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	setVringKick        = 12
	setVringCall        = 13
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	setVringEnable      = 18
)

// Memory of the guest that is not there: two queues, and a page for a request and its answer.
const (
	memorySize = 1 << 20
	userBase   = 0x7f0000000000 // where QEMU would have it
	queueSize  = 64             // entries
	queueBytes = 0x4000         // for one queue: descriptors, avail, used
	request    = 0x10000        // of the request
	answer     = 0x40000        // of the answer
	answerSize = 0x20000
)

// One limit for each wait, which only catches a server that hangs.
const patience = 20 * time.Second

// front is QEMU's side of a file server, with a guest's memory.
type front struct {
	socket int
	memory []byte
	memfd  int
	file   *os.File // of memfd, where it had to be admitted
	kick   [2]int
	call   [2]int
	used   uint16
	unique uint64
}

// connect negotiates as QEMU does, and gives the server memory and two queues. admit labels the
// memory for the server; nil: nobody has to.
func connect(socket *os.File, admit func(memory *os.File)) (*front, error) {
	f := &front{socket: int(socket.Fd())}
	limit := unix.Timeval{Sec: int64(patience / time.Second)}
	if err := unix.SetsockoptTimeval(f.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(f.socket, false); err != nil {
		return nil, err
	}
	if err := f.allocate(); err != nil {
		return nil, err
	}
	if admit != nil {
		memory := os.NewFile(uintptr(f.memfd), "memory")
		admit(memory)
		f.file = memory // which closes the descriptor
	}
	if err := f.ask(getFeatures); err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	const version1, protocol = 1 << 32, 1 << 30
	if err := f.ask(getProtocolFeatures); err != nil {
		return nil, fmt.Errorf("protocol features: %w", err)
	}
	err := errors.Join(
		f.send(setProtocolFeatures, u64(0)), f.send(setFeatures, u64(version1|protocol)), f.send(setOwner, nil),
		f.send(setMemTable, table(region{0, memorySize, userBase, 0}), f.memfd),
		f.queue(0), f.queue(1),
	)
	if err == nil {
		err = f.ask(getFeatures) // a kick before the queues are enabled may get lost
	}
	return f, err
}

func (f *front) allocate() (err error) {
	if f.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC); err != nil {
		return err
	}
	if err = unix.Ftruncate(f.memfd, memorySize); err != nil {
		return err
	}
	if f.memory, err = unix.Mmap(f.memfd, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	for i := range f.kick {
		if f.kick[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			return err
		}
		if f.call[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return err
		}
	}
	return nil
}

func (f *front) close() {
	_ = unix.Munmap(f.memory)
	if f.file != nil {
		_ = f.file.Close()
	} else {
		_ = unix.Close(f.memfd)
	}
	for i := range f.kick {
		_, _ = unix.Close(f.kick[i]), unix.Close(f.call[i])
	}
}

// queue sets up one of the queues: the first for forgets, the second for requests.
func (f *front) queue(i int) error {
	base := uint64(userBase + i*queueBytes)
	index := uint32(i)
	return errors.Join(
		f.send(setVringNum, state(index, queueSize)),
		f.send(setVringBase, state(index, 0)),
		f.send(setVringAddr, vring(index, base, base+0x1000, base+0x2000)),
		f.send(setVringCall, u64(uint64(i)), f.call[i]),
		f.send(setVringKick, u64(uint64(i)), f.kick[i]),
		f.send(setVringEnable, state(index, 1)),
	)
}

func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func state(index, num uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, index), num)
}

func vring(index uint32, desc, avail, used uint64) []byte {
	b := state(index, 0)
	for _, v := range []uint64{desc, used, avail, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

type region struct{ guest, size, user, offset uint64 }

func table(regions ...region) []byte {
	b := state(uint32(len(regions)), 0)
	for _, r := range regions {
		for _, v := range []uint64{r.guest, r.size, r.user, r.offset} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	}
	return b
}

// send sends a message with descriptors; nobody answers.
func (f *front) send(kind uint32, payload []byte, fds ...int) error {
	return f.raw(kind, 1, uint32(len(payload)), payload, fds...)
}

// raw sends a message whose header says anything.
func (f *front) raw(kind, flags, size uint32, payload []byte, fds ...int) error {
	b := make([]byte, 12, 12+len(payload))
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint32(b[4:], flags)
	binary.LittleEndian.PutUint32(b[8:], size)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(f.socket, append(b, payload...), rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send %d: %w", kind, err)
	}
	return nil
}

// ask sends a message and reads the answer, a number.
func (f *front) ask(kind uint32) error {
	if err := f.send(kind, nil); err != nil {
		return err
	}
	var b [20]byte
	for have := 0; have < len(b); {
		n, err := unix.Read(f.socket, b[have:])
		switch {
		case errors.Is(err, unix.EINTR): // the kernel does not go on by itself: the socket has a time limit
		case err != nil:
			return err
		case n == 0:
			return errDied
		default:
			have += n
		}
	}
	return nil
}

// descriptor is one of a queue's. Flag 1 says that next is valid, 2 that the server writes.
type descriptor struct {
	at          uint64
	size        uint32
	flags, next uint16
}

func (d descriptor) write(b []byte) {
	binary.LittleEndian.PutUint64(b, d.at)
	binary.LittleEndian.PutUint32(b[8:], d.size)
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], d.next)
}

// put makes a request of the bytes out available in the second queue. The answer is at most in
// bytes long.
func (f *front) put(out []byte, in uint32) {
	q := f.memory[queueBytes:]
	copy(f.memory[request:], out)
	descriptor{request, uint32(len(out)), 1, 1}.write(q)
	descriptor{answer, in, 2, 0}.write(q[16:])
	avail := q[0x1000:]
	binary.LittleEndian.PutUint16(avail[4+2*(f.used%queueSize):], 0)
	f.used++
	// The flags and the index are one word, which the server reads when it is kicked.
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&avail[0])), uint32(f.used)<<16)
}

// errDied means that the server has ended instead of answering.
var errDied = errors.New("the server has ended")

// wait waits for the answer to the request that was put last.
func (f *front) wait(ended <-chan struct{}) error {
	if _, err := unix.Write(f.kick[1], u64(1)); err != nil {
		return err
	}
	index := (*uint32)(unsafe.Pointer(&f.memory[queueBytes+0x2000]))
	for begin := time.Now(); time.Since(begin) < patience; {
		if uint16(atomic.LoadUint32(index)>>16) == f.used {
			return nil
		}
		select {
		case <-ended:
			return errDied
		default:
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(f.call[1]), Events: unix.POLLIN}}, 20); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		_, _ = unix.Read(f.call[1], make([]byte, 8))
	}
	return errors.New("the server does not answer")
}
