// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func socketOperations() map[string]operation {
	return map[string]operation{
		"connect": func(a []string) error { return connect(unix.SOCK_STREAM, &unix.SockaddrUnix{Name: a[0]}) },
		"serve":   serve,
		"sendto": func(a []string) error {
			return withSocket(unix.AF_UNIX, unix.SOCK_DGRAM, 0, func(fd int) error {
				return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrUnix{Name: a[0]})
			})
		},
		"socket": func(a []string) error {
			families := map[string][3]int{
				"inet": {unix.AF_INET, unix.SOCK_STREAM, 0}, "inet6": {unix.AF_INET6, unix.SOCK_STREAM, 0},
				"udp": {unix.AF_INET, unix.SOCK_DGRAM, 0},
				"raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
				"route":     {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
				"audit":     {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT},
				"netfilter": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, "vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
				"alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, "uevent": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT},
				"diag": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG}, "unix": {unix.AF_UNIX, unix.SOCK_STREAM, 0},
			}
			f, found := families[a[0]]
			if !found {
				return errors.New("no such family")
			}
			return withSocket(f[0], f[1], f[2], nothing)
		},
		"tcp-connect": func(a []string) error {
			return withPort(a, func(port int) error {
				return withSocket(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
					return step("connect", unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
				})
			})
		},
		"tcp-bind": func(a []string) error {
			return withPort(a, func(port int) error {
				return withSocket(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
					return step("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
				})
			})
		},
		"tap": func(a []string) error {
			return withFile("/dev/net/tun", unix.O_RDWR, func(fd int) error {
				request, err := unix.NewIfreq(a[0])
				if err != nil {
					return err
				}
				request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
				return step("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
			})
		},
	}
}

// serve listens on a socket and gives back what comes, until it is killed. Arguments: PATH [LABEL
// of the socket].
func serve(a []string) error {
	if len(a) > 1 {
		if err := os.WriteFile("/proc/thread-self/attr/sockcreate", []byte(a[1]), 0); err != nil {
			return err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", a[0])
	if err != nil {
		return err
	}
	fmt.Println("listens")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

func withPort(a []string, do func(int) error) error {
	port, err := strconv.Atoi(a[0])
	if err != nil {
		return err
	}
	return do(port)
}

func withSocket(family, kind, protocol int, do func(int) error) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return step("socket", err)
	}
	return errors.Join(do(fd), unix.Close(fd))
}

func connect(kind int, to unix.Sockaddr) error {
	return withSocket(unix.AF_UNIX, kind, 0, func(fd int) error { return step("connect", unix.Connect(fd, to)) })
}
