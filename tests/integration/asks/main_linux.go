// SPDX-License-Identifier: Apache-2.0

// Command asks does what has a kernel look for modules, as any user may: sockets of some families
// and protocols of netlink, a cipher, and mounts in a user namespace. It prints a line for each
// that has loaded something: its name and the modules.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	before := loaded()
	ask := func(name string, do func()) {
		do()
		now := loaded()
		var came []string
		for _, module := range now {
			if !slices.Contains(before, module) {
				came = append(came, module)
			}
		}
		if before = now; len(came) > 0 {
			fmt.Println(name, strings.Join(came, " "))
		}
	}
	if len(os.Args) == 2 {
		for _, kind := range []string{"xfs", "squashfs", "nonsense"} {
			ask("mount-"+kind, func() { _ = unix.Mount("none", "/tmp", kind, 0, "") })
		}
		return
	}
	fmt.Println("uid", os.Getuid())
	socket := func(family, kind, protocol int) func() {
		return func() {
			if fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol); err == nil {
				_ = unix.Close(fd)
			}
		}
	}
	// Each name that is not known starts the guest's modprobe: a second of an emulated guest.
	for _, family := range []int{unix.AF_X25, unix.AF_RDS, unix.AF_CAN, unix.AF_TIPC, unix.AF_ALG} {
		ask(fmt.Sprintf("family-%d", family), socket(family, unix.SOCK_DGRAM, 0))
	}
	for _, protocol := range []int{unix.NETLINK_USERSOCK, unix.NETLINK_XFRM, unix.NETLINK_NETFILTER, unix.NETLINK_RDMA} {
		ask(fmt.Sprintf("netlink-%d", protocol), socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol))
	}
	ask("cipher", func() {
		if fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err == nil {
			_ = unix.Bind(fd, &unix.SockaddrALG{Type: "hash", Name: "michael_mic"})
			_ = unix.Close(fd)
		}
	})
	mounts := exec.CommandContext(context.Background(), "/proc/self/exe", "mounts")
	mounts.Stdout, mounts.Stderr = os.Stdout, os.Stdout
	mounts.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, // root keeps its capabilities over exec
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	fmt.Println("namespace", mounts.Run())
	fmt.Println("end")
}

// loaded names the kernel's modules. A kernel that can have none has no list.
func loaded() []string {
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names
}
