// SPDX-License-Identifier: Apache-2.0

// Command guest is the first process of a test's guest, and misbehaves as the file /mode asks.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"cloister/sandbox/guestapi"
)

func main() {
	port, err := run()
	if err != nil {
		fmt.Println("test guest:", err)
	}
	defer runtime.KeepAlive(port) // a port without a reference is closed
	for {                         // the end of process 1 would be a panic of the kernel
		time.Sleep(time.Hour)
	}
}

func run() (*os.File, error) {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return nil, err
		}
		if err := syscall.Mount("none", m.at, m.kind, 0, ""); err != nil && !errors.Is(err, syscall.EBUSY) {
			return nil, err
		}
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	mode, err := os.ReadFile("/mode")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(console, "test guest: %s\n", mode)
	switch string(mode) {
	case "exit":
		os.Exit(1)
	case "silent":
		return nil, nil
	}
	port, err := openPort()
	if err != nil {
		return nil, err
	}
	return port, misbehave(string(mode), console, port)
}

// openPort finds the agent's port by its name, as the agent does.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(name)) == guestapi.PortName {
			// Without O_NONBLOCK: the file must not go to the poller.
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no port %s among %q", guestapi.PortName, names)
}

// endless reads as the same bytes for ever.
type endless []byte

func (e endless) Read(buf []byte) (int, error) {
	n := 0
	for n+len(e) <= len(buf) {
		n += copy(buf[n:], e)
	}
	return n, nil
}

func flood(w io.Writer, bytes ...byte) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, endless(bytes), make([]byte, 64<<10))
	return err
}

// misbehave breaks the contract in the way that mode names, for as long as the guest runs. The
// modes are those of TestHostileGuests and of TestStartFailures.
func misbehave(mode string, console io.Writer, port *os.File) error {
	switch mode {
	case "no preamble":
		return flood(port, 'x')
	case "version":
		_, err := port.WriteString("cloister/99 v99.0.0 uptime_ms=1 mem_used_kib=1\n")
		return err
	}
	if mode == "event flood" {
		return lie(port, console)
	}
	if _, err := port.WriteString(guestapi.Hello{Protocol: guestapi.Protocol, AgentVersion: "hostile"}.String()); err != nil {
		return err
	}
	switch mode {
	case "hang up":
		return port.Close()
	case "deaf":
		return nil // never reads
	case "no frames":
		return flood(port, 0xff)
	case "huge frame":
		// Version 0, data, no flags, stream 1, 4 GiB - 1.
		if _, err := port.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}); err != nil {
			return err
		}
		return flood(port, 'x')
	case "pings":
		return flood(port, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7)
	case "own streams":
		for id := byte(2); ; id += 2 {
			if _, err := port.Write([]byte{0, 1, 0, 1, 0, 0, 0, id, 0, 0, 0, 0}); err != nil {
				return err
			}
		}
	case "console flood":
		go func() { _ = serve(port, func(io.ReadWriter) {}) }()
		for {
			if _, err := console.Write([]byte(strings.Repeat("flood ", 100) + "\n")); err != nil {
				time.Sleep(time.Second)
			}
		}
	case "no answers":
		return serve(port, func(s io.ReadWriter) { _, _ = io.Copy(io.Discard, s) })
	case "wrong answers":
		return serve(port, func(s io.ReadWriter) {
			// ttrpc: length, stream, type response, flags.
			_ = flood(s, 0, 0, 0, 2, 0, 0, 0, 9, 2, 0, 'x', 'x')
		})
	}
	return fmt.Errorf("unknown mode %q", mode)
}

// serve speaks the contract as far as streams go.
func serve(port io.ReadWriteCloser, handle func(io.ReadWriter)) error {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	session, err := yamux.Server(port, config)
	if err != nil {
		return err
	}
	for {
		s, err := session.AcceptStream()
		if err != nil {
			return err
		}
		go func() {
			r := bufio.NewReader(s)
			if n, err := r.ReadByte(); err == nil {
				_, _ = r.Discard(int(n)) // the stream's name
			}
			handle(struct {
				io.Reader
				io.Writer
			}{r, s})
		}()
	}
}

// serveMux says hello and hands out the host's streams by name.
func serveMux(port io.ReadWriteCloser, handle func(guestapi.StreamName, net.Conn)) error {
	session, err := guestapi.Serve(port, guestapi.Hello{Protocol: guestapi.Protocol, AgentVersion: "liar"})
	if err != nil {
		return err
	}
	for {
		s, err := session.AcceptStream()
		if err != nil {
			return err
		}
		go func() {
			if name, err := guestapi.ReadStreamName(s); err == nil {
				handle(name, s)
			}
		}()
	}
}
