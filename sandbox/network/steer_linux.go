// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Slots of the map that holds the listeners.
const (
	slotIPv4 = 0
	slotIPv6 = 1
)

// Offsets into struct bpf_sk_lookup, linux/bpf.h.
const (
	lookupFamily    = 8
	lookupProtocol  = 12
	lookupLocalIPv4 = 40
	lookupLocalIPv6 = 44
)

// steering is a program that gives connections to localhost to our listeners. The kernel takes it
// away when its descriptors are closed, by whatever end of this process. It holds map, program and
// link, in this order.
type steering []io.Closer

// steer has every TCP connection to 127.0.0.1 or ::1 of the namespace, whatever its port, arrive at
// the listener in the slot of its family; where there is none, nothing changes. The program is
// attached to the network namespace, so it sees lookups of this namespace alone, and needs no rule
// that a crash could leave.
func (n *Namespace) steer(listeners map[uint32]int) (s steering, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("steer connections to localhost: %w", err), s.Close())
		}
	}()
	// A sockmap holds references to sockets: no number of a descriptor can go stale in it.
	slots, err := ebpf.NewMap(&ebpf.MapSpec{Name: "cloister", Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	if err != nil {
		return s, err
	}
	s = append(s, slots)
	for slot, listener := range listeners {
		if err := slots.Put(slot, uint32(listener)); err != nil {
			return s, err
		}
	}
	// The helpers that lookup calls are open to programs of any licence.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "cloister", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0", Instructions: lookup(slots.FD()),
	})
	if err != nil {
		return s, err
	}
	s = append(s, program)
	attached, err := link.AttachNetNs(int(n.file.Fd()), program)
	if err != nil {
		return s, err
	}
	return append(s, attached), nil
}

// Close takes the program away. The link goes first: from then on no lookup runs the program.
func (s steering) Close() error {
	var errs []error
	for _, c := range slices.Backward(s) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// lookup is the program: it looks the listener up by the connection's family, and lets pass what is
// not for localhost. The context has the local address and port, which the client asked for. The
// remote side is not looked at: only processes inside the namespace reach its loopback.
func lookup(slots int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, lookupProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupFamily, asm.Word),
		asm.JEq.Imm(asm.R2, unix.AF_INET, "ipv4"),
		asm.JNE.Imm(asm.R2, unix.AF_INET6, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIPv6, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIPv6+4, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIPv6+8, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIPv6+12, asm.Word),
		asm.JNE.Imm(asm.R2, onWire(1), "pass"),
		asm.StoreImm(asm.RFP, -4, slotIPv6, asm.Word),
		asm.Ja.Label("assign"),
		asm.LoadMem(asm.R2, asm.R6, lookupLocalIPv4, asm.Word).WithSymbol("ipv4"),
		asm.JNE.Imm(asm.R2, onWire(0x7f000001), "pass"),
		asm.StoreImm(asm.RFP, -4, slotIPv4, asm.Word),
		asm.LoadMapPtr(asm.R1, slots).WithSymbol("assign"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		// A socket from a sockmap comes with a reference that the program must release, or the
		// verifier refuses it.
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS: go on with the listener that was assigned, or look for one
		asm.Return(),
	}
}

// onWire is a word of an address as a machine reads it that took it from a packet. The kernel gives
// addresses in network byte order, and the constants of a program are the host's.
func onWire(word uint32) int32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], word)
	return int32(binary.NativeEndian.Uint32(b[:]))
}
