// SPDX-License-Identifier: Apache-2.0

package names

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	namesPort  = 53
)

// Offsets in struct bpf_sock_addr, whose values are in network order (include/uapi/linux/bpf.h).
const (
	userIP4  = 4
	userIP6  = 8
	userPort = 24
)

// hook is a place where the kernel asks for the far address of a socket. A back hook makes an
// answer look as if it came from port 53: resolvers drop datagrams from another port than the one
// they asked.
type hook struct {
	at   ebpf.AttachType
	six  bool // the address has sixteen bytes
	back bool // from the server's port to the well-known one
}

// hooks are all of them. Connect is for connected sockets of both transports, sendmsg and recvmsg
// for unconnected UDP, getpeername for programs that look at the far end. Programs ask an IPv4
// server through IPv6 sockets too, by mapped addresses.
func hooks() []hook {
	return []hook{
		{at: ebpf.AttachCGroupInet4Connect},
		{at: ebpf.AttachCGroupUDP4Sendmsg},
		{at: ebpf.AttachCGroupUDP4Recvmsg, back: true},
		{at: ebpf.AttachCgroupInet4GetPeername, back: true},
		{at: ebpf.AttachCGroupInet6Connect, six: true},
		{at: ebpf.AttachCGroupUDP6Sendmsg, six: true},
		{at: ebpf.AttachCGroupUDP6Recvmsg, six: true, back: true},
		{at: ebpf.AttachCgroupInet6GetPeername, six: true, back: true},
	}
}

// redirect leads what is sent to the name server's address to the port, and has the answers come
// from where they are expected, until undo. It is all or nothing: with half of the hooks, questions
// would be led away and their answers dropped.
func redirect(port uint16) (undo func(), err error) {
	var links []link.Link
	undo = func() {
		for _, l := range links {
			_ = l.Close()
		}
	}
	for _, h := range hooks() {
		l, err := h.attach(port)
		if err != nil {
			undo()
			return nil, fmt.Errorf("redirect port %d to %d: %s: %w", namesPort, port, h.at, err)
		}
		links = append(links, l)
	}
	return undo, nil
}

// attach loads one program and attaches it at the root of all cgroups, so that it holds for every
// container, also for those that come later.
func (h hook) attach(port uint16) (link.Link, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: h.at, Instructions: h.program(port), License: "Apache-2.0",
	})
	if err != nil {
		return nil, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroupRoot, Attach: h.at, Program: program})
	// The link holds the program.
	if closeErr := program.Close(); err == nil && closeErr != nil {
		return nil, errors.Join(closeErr, l.Close())
	}
	return l, err
}

// program changes one port at one address, and lets everything pass. Every other address and port
// runs through it unchanged: the value 1 allows the call.
func (h hook) program(port uint16) asm.Instructions {
	const pass = "pass"
	from, to := networkPort(namesPort), networkPort(port)
	if h.back {
		from, to = to, from
	}
	ip := address().As4()
	words := map[int16]int32{userIP4: word(ip[:])}
	if h.six { // an IPv4 address in IPv6's form: ::ffff:a.b.c.d
		words = map[int16]int32{userIP6: 0, userIP6 + 4: 0, userIP6 + 8: word([]byte{0, 0, 0xff, 0xff}), userIP6 + 12: word(ip[:])}
	}
	words[userPort] = from
	var out asm.Instructions
	// The order of the comparisons does not matter: each one that differs jumps to the end.
	for at, value := range words {
		out = append(out, asm.LoadMem(asm.R2, asm.R1, at, asm.Word), asm.JNE.Imm32(asm.R2, value, pass))
	}
	return append(out,
		asm.Mov.Imm(asm.R2, to), asm.StoreMem(asm.R1, userPort, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, 1).WithSymbol(pass), asm.Return(),
	)
}

// word is four bytes as the program loads them, whatever the byte order of the machine.
func word(b []byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }

// networkPort is a port as the kernel keeps it: two bytes in network order, in a word.
func networkPort(p uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p)))
}
