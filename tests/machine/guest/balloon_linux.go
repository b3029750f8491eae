// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Queues of a balloon (virtio 1.2, 5.5.2). QEMU offers no hints about free pages, so reports are
// the fourth.
const (
	inflates = iota
	deflates
	statistics
	reports
)

// Offsets in the common configuration of a virtio device on PCI (virtio 1.2, 4.1.4.3).
const (
	driverSelect  = 8
	driverFeature = 12
	deviceStatus  = 20
	queueSelect   = 22
	queueSize     = 24
	queueEnable   = 28
	notifyOffset  = 30
	queueDesc     = 32
	queueDriver   = 40
	queueDevice   = 48
)

// Bits of deviceStatus. A device that was given nonsense asks to be reset.
const (
	acknowledged = 1 | 2 // and there is a driver
	driverOK     = 4
	featuresOK   = 8
	needsReset   = 0x40
)

// Where the parts of the queue lie in its page.
const (
	entries   = 8
	available = 256
	used      = 512
	pageSize  = 4096
)

// next and writable are flags of a descriptor.
const (
	next     = 1
	writable = 2
)

// balloon is the device without its driver, in the hands of the guest's root.
type balloon struct {
	common, notify, config unsafe.Pointer
	multiplier             uint32
	ring, page             []byte // of memory, page is what the queue's buffers are
	ringAt, pageAt         uint64 // where they are in the machine
}

// hostile does something with the balloon, so often, and says how often the device was done with a
// buffer and how often it asked for a reset.
func hostile(args []string) (string, error) {
	times, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	act, known := map[string]func(b *balloon){
		"own": own, "outside": outside, "odd": odd, "flood": flood, "reported": reported, "statistics": wrongStatistics,
		"config": wrongConfig, "loop": loop, "index": index, "head": head, "empty": empty, "length": length, "ring": ring,
	}[args[0]]
	if !known {
		return "", fmt.Errorf("what is %q?", args[0])
	}
	b, err := openBalloon()
	if err != nil {
		return "", err
	}
	done, refused := 0, 0
	for range times {
		if err := b.reset(); err != nil {
			return "", err
		}
		act(b)
		done += int(binary.LittleEndian.Uint16(b.ring[used+2:]))
		if b.status()&needsReset != 0 {
			refused++
		}
	}
	return fmt.Sprintf("%d done, %d refused, %d in the page", done, refused, b.page[pageSize-1]), b.close()
}

// openBalloon takes the device from its driver and maps its registers.
func openBalloon() (*balloon, error) {
	const transitional, modern = "0x1002", "0x1045"
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	for _, dir := range devices {
		id, err := os.ReadFile(filepath.Join(dir, "device"))
		if s := strings.TrimSpace(string(id)); err != nil || s != transitional && s != modern {
			continue
		}
		drivers, _ := filepath.Glob(filepath.Join(dir, "virtio*", "driver", "unbind"))
		for _, unbind := range drivers {
			name := filepath.Base(filepath.Dir(filepath.Dir(unbind)))
			if err := os.WriteFile(unbind, []byte(name), 0); err != nil {
				return nil, err
			}
		}
		b := &balloon{}
		if err := b.registers(dir); err != nil {
			return nil, err
		}
		b.ring, b.ringAt, err = memory()
		if err == nil {
			b.page, b.pageAt, err = memory()
		}
		return b, err
	}
	return nil, errors.New("no balloon")
}

// registers maps what the device's capabilities name (virtio 1.2, 4.1.4).
func (b *balloon) registers(dir string) error {
	const vendor = 9
	space, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		return err
	}
	for at := int(space[0x34]); at != 0; at = int(space[at+1]) {
		if space[at] != vendor {
			continue
		}
		offset, size := binary.LittleEndian.Uint32(space[at+8:]), binary.LittleEndian.Uint32(space[at+12:])
		into := map[byte]*unsafe.Pointer{1: &b.common, 2: &b.notify, 4: &b.config}[space[at+3]]
		if into == nil {
			continue
		}
		if space[at+3] == 2 {
			b.multiplier = binary.LittleEndian.Uint32(space[at+16:])
		}
		bar, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("resource%d", space[at+4])), os.O_RDWR|unix.O_SYNC, 0)
		if err != nil {
			return err
		}
		size = (size + pageSize - 1) &^ (pageSize - 1)
		mapped, err := unix.Mmap(int(bar.Fd()), int64(offset), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err := errors.Join(err, bar.Close()); err != nil {
			return err
		}
		*into = unsafe.Pointer(&mapped[0])
	}
	if b.common == nil || b.notify == nil || b.config == nil {
		return errors.New("the balloon has no registers")
	}
	return nil
}

// memory is a page of this process, and where the machine has it.
func memory() ([]byte, uint64, error) {
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_LOCKED)
	if err != nil {
		return nil, 0, err
	}
	page[0] = 1 // so that it is there
	table, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, 0, err
	}
	defer table.Close()
	entry := make([]byte, 8)
	const number = 1<<55 - 1
	_, err = table.ReadAt(entry, int64(uintptr(unsafe.Pointer(&page[0]))/pageSize*8))
	return page, (binary.LittleEndian.Uint64(entry) & number) * pageSize, err
}

func (b *balloon) close() error {
	b.setStatus(0)
	return errors.Join(unix.Munmap(b.ring), unix.Munmap(b.page))
}

// reset begins anew, with every queue in the same page.
func (b *balloon) reset() error {
	b.setStatus(0)
	clear(b.ring)
	b.setStatus(acknowledged)
	// Bit 32 is VERSION_1. Of the balloon's own bits: statistics, and reports (bit 5).
	for half, bits := range []uint32{1<<1 | 1<<5, 1} {
		store32(b.common, driverSelect, uint32(half))
		store32(b.common, driverFeature, bits)
	}
	b.setStatus(acknowledged | featuresOK)
	if b.status()&featuresOK == 0 {
		return errors.New("the balloon has other features")
	}
	return nil
}

// queue makes one queue, at a place in the machine, and starts the device.
func (b *balloon) queue(queue uint16, at uint64) {
	store16(b.common, queueSelect, queue)
	store16(b.common, queueSize, entries)
	for offset, to := range map[uintptr]uint64{queueDesc: at, queueDriver: at + available, queueDevice: at + used} {
		store32(b.common, offset, uint32(to))
		store32(b.common, offset+4, uint32(to>>32))
	}
	store16(b.common, queueEnable, 1)
	b.setStatus(acknowledged | featuresOK | driverOK)
}

// describe fills a descriptor. The one that follows it, if flags say so, is the first.
func (b *balloon) describe(i int, address uint64, length uint32, flags uint16) {
	d := b.ring[16*i:]
	binary.LittleEndian.PutUint64(d, address)
	binary.LittleEndian.PutUint32(d[8:], length)
	binary.LittleEndian.PutUint16(d[12:], flags)
}

// kick says that there are count buffers in all, the last of which begins at a descriptor.
func (b *balloon) kick(queue, first, count uint16) {
	binary.LittleEndian.PutUint16(b.ring[available+4+2*((count-1)%entries):], first)
	binary.LittleEndian.PutUint16(b.ring[available+2:], count)
	store16(b.common, queueSelect, queue)
	store16(b.notify, uintptr(uint32(load16(b.common, notifyOffset))*b.multiplier), queue)
}

// give is one whole buffer.
func (b *balloon) give(queue uint16, address uint64, length uint32) {
	b.queue(queue, b.ringAt)
	b.describe(0, address, length, 0)
	b.kick(queue, 0, 1)
}

// pages writes numbers of pages into the page.
func (b *balloon) pages(numbers ...uint32) uint32 {
	for i, n := range numbers {
		binary.LittleEndian.PutUint32(b.page[4*i:], n)
	}
	return uint32(4 * len(numbers))
}

// own gives the page away by itself: it is empty after that, which shows that the device hears.
func own(b *balloon) {
	b.page[pageSize-1] = 7
	b.give(inflates, b.pageAt, b.pages(uint32(b.pageAt/pageSize)))
}

// outside gives away what is no memory: the interrupt controller, the firmware, the end of the
// address space; and takes it back.
func outside(b *balloon) {
	n := b.pages(0xffffffff, 0xfee00, 0xfffff, 0xf0, 0x7fffffff)
	for _, queue := range []uint16{inflates, deflates} {
		b.give(queue, b.pageAt, n)
	}
}

// odd gives away a part of a number, and a list that the device should write.
func odd(b *balloon) {
	b.give(inflates, b.pageAt, 3)
	b.describe(1, b.pageAt, 8, writable)
	b.kick(inflates, 1, 2)
}

// flood gives away the page, hundreds of times at once and fifty times in a row.
func flood(b *balloon) {
	numbers := make([]uint32, pageSize/4)
	for i := range numbers {
		numbers[i] = uint32(b.pageAt/pageSize) + uint32(i%2)<<31 // every second is no memory
	}
	b.queue(inflates, b.ringAt)
	for i := range uint16(50) {
		b.describe(0, b.pageAt, b.pages(numbers...), 0)
		b.kick(inflates, 0, i+1)
	}
}

// reported names an interrupt controller, a part of a page, and firmware as free memory.
func reported(b *balloon) {
	b.queue(reports, b.ringAt)
	b.describe(0, 0xfee00000, pageSize, writable)
	b.describe(1, b.pageAt+1, 5, writable)
	b.describe(2, 0xfffc0000, 0x40000, writable)
	for i := range uint16(3) {
		b.kick(reports, i, i+1)
	}
}

// wrongStatistics sends tags that there are not, values without an end, and buffers that nobody has
// asked for.
func wrongStatistics(b *balloon) {
	for i := range b.page {
		b.page[i] = 0xff
	}
	b.queue(statistics, b.ringAt)
	for i := range uint16(entries) {
		b.describe(int(i), b.pageAt, pageSize-uint32(i), 0)
		b.kick(statistics, i, i+1)
	}
}

// wrongConfig says that the balloon has more pages than the machine.
func wrongConfig(b *balloon) {
	const actual = 4
	for _, pages := range []uint32{0xffffffff, 0, 0x80000000} {
		store32(b.config, actual, pages)
	}
}

// loop is a chain of buffers that has no end.
func loop(b *balloon) {
	b.queue(inflates, b.ringAt)
	b.describe(0, b.pageAt, 4, next)
	b.kick(inflates, 0, 1)
}

// index says that there are thousands of times more buffers than the queue has.
func index(b *balloon) {
	b.queue(inflates, b.ringAt)
	b.describe(0, b.pageAt, b.pages(0xffffffff), 0)
	b.kick(inflates, 0, 0x8000)
}

// head begins at a descriptor that there is not.
func head(b *balloon) {
	b.queue(inflates, b.ringAt)
	b.kick(inflates, 0xffff, 1)
}

// empty is a buffer of no bytes.
func empty(b *balloon) { b.give(inflates, b.pageAt, 0) }

// length is a buffer that wraps around the address space.
func length(b *balloon) { b.give(inflates, 0xfffffffffffff000, 0xffffffff) }

// ring is a queue in no memory.
func ring(b *balloon) {
	b.queue(inflates, 0xfffffffff000)
	b.kick(inflates, 0, 1)
}

// Registers are read and written as wide as they are, and no access may be left out or split.

//go:noinline
func (b *balloon) status() uint8 { return *(*uint8)(unsafe.Add(b.common, deviceStatus)) }

//go:noinline
func load16(p unsafe.Pointer, offset uintptr) uint16 { return *(*uint16)(unsafe.Add(p, offset)) }

//go:noinline
func (b *balloon) setStatus(v uint8) { *(*uint8)(unsafe.Add(b.common, deviceStatus)) = v }

//go:noinline
func store16(p unsafe.Pointer, offset uintptr, v uint16) { *(*uint16)(unsafe.Add(p, offset)) = v }

//go:noinline
func store32(p unsafe.Pointer, offset uintptr, v uint32) { *(*uint32)(unsafe.Add(p, offset)) = v }
