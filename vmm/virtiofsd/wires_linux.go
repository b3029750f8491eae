// SPDX-License-Identifier: Apache-2.0

package virtiofsd

import (
	"errors"
	"net"
	"os"

	"cloister/vmm/internal/child"
)

// wires are the sockets of a server that is about to start: the one that goes on
// to QEMU, this side's end of its log, and the server's own, which are closed once
// it has them.
type wires struct {
	socket, log *os.File
	server      struct{ socket, log *os.File }
}

// open makes a listening socket, whose path is gone when it returns, and the one
// connection to it that will ever be: the server accepts once and then stops
// listening.
func (w *wires) open(dir string) error {
	err := child.Private(dir, func(l *net.UnixListener, path string) (err error) {
		defer func() { err = errors.Join(err, l.Close()) }()
		if w.server.socket, err = l.File(); err != nil {
			return err
		}
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		w.socket, err = conn.File()
		return errors.Join(err, conn.Close())
	})
	if err == nil {
		w.log, w.server.log, err = child.Socketpair("log")
	}
	if err != nil {
		w.closeServer()
		w.closeClient()
	}
	return err
}

// closeServer gives up the server's ends: with them open here, its death would be no hang-up.
func (w *wires) closeServer() {
	_ = w.server.socket.Close()
	_ = w.server.log.Close()
}

// closeClient gives up this side's ends, for a server that did not start.
func (w *wires) closeClient() {
	_ = w.socket.Close()
	_ = w.log.Close()
}
