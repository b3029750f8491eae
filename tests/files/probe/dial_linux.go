// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// dial sends the standard input to a socket, and then its end, and prints what comes back until
// that ends.
func dial(socket string) error {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	unix := conn.(*net.UnixConn) //nolint:forcetypeassert // what "unix" gives
	defer unix.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(unix, os.Stdin)
		sent <- errors.Join(err, unix.CloseWrite())
	}()
	_, err = io.Copy(os.Stdout, unix)
	return errors.Join(err, <-sent)
}

// echo answers each connection to a socket of its making with what it was sent, once that has
// ended. It says when clients can come, and never ends by itself.
func echo(socket string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if data, err := io.ReadAll(conn); err == nil {
			_, _ = conn.Write(append([]byte("got "), data...)) // the client says what is missing
		}
		_ = conn.Close()
	}
}

// readPort is where serveReads listens: two containers that share a network meet there.
const readPort = "127.0.0.1:4321"

// serveReads answers each byte of each client with one line: what the file has at that moment. It
// never ends by itself.
func serveReads(name string) string {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", readPort)
	with(err)
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return seen(err)
		}
		for question := make([]byte, 1); ; {
			if _, err := conn.Read(question); err != nil {
				break
			}
			_, _ = fmt.Fprintln(conn, text(name)) // the client says what is missing
		}
		_ = conn.Close()
	}
}

// replaceAndAsk replaces a file by rename, 40 times, asks serveReads at once what it reads, and
// tells how often that was not the new file.
func replaceAndAsk(name string) string {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", readPort)
	with(err)
	defer conn.Close()
	lines, wrong := bufio.NewScanner(conn), 0
	const times = 40
	for i := range times {
		with(write(name+"~", fmt.Sprint("content ", i)), os.Rename(name+"~", name))
		_, err := conn.Write([]byte("?"))
		with(err)
		if !lines.Scan() || lines.Text() != fmt.Sprint("content ", i) {
			wrong++
		}
	}
	return fmt.Sprintf("%d of %d are old", wrong, times)
}
