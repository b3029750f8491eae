// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/digitalocean/go-qemu/qmp"

	"cloister/vmm/internal/child"
)

// wires are the connections between this process and a QEMU that is about to
// start: this side's ends, and QEMU's, which are closed once it has them.
type wires struct {
	qmp      *qmp.SocketMonitor
	agent    net.Conn
	console  *os.File
	log      *os.File
	lifeline lifeline
	guest    struct{ qmp, agent, console, log *os.File }
}

// newWires makes the connections. dir is a folder nobody else can write to.
func newWires(dir string) (*wires, error) {
	w := &wires{}
	err := w.open(dir)
	if err != nil {
		w.closeHost()
		w.closeGuest()
		return nil, fmt.Errorf("connect qemu: %w", err)
	}
	return w, nil
}

// open makes one connection after the other; newWires closes those that were made before an error.
func (w *wires) open(dir string) (err error) {
	if w.qmp, w.guest.qmp, err = dialMonitor(dir); err != nil {
		return err
	}
	agent, guest, err := child.Socketpair("agent")
	if err != nil {
		return err
	}
	w.guest.agent = guest
	w.agent, err = net.FileConn(agent)
	if err = errors.Join(err, agent.Close()); err != nil {
		return err
	}
	if w.console, w.guest.console, err = child.Socketpair("console"); err != nil {
		return err
	}
	if w.log, w.guest.log, err = child.Socketpair("log"); err != nil {
		return err
	}
	w.lifeline.host, w.lifeline.child, err = child.Socketpair("lifeline")
	return err
}

// files are what QEMU inherits, and where it finds them.
func (w *wires) files(o Options) ([]*os.File, FDs) {
	// os/exec numbers extra files from 3 on.
	const first = 3
	files := []*os.File{w.guest.qmp, w.guest.agent, w.guest.console, w.lifeline.child}
	fds := FDs{QMP: first, Agent: first + 1, Console: first + 2}
	if o.Share != nil {
		fds.Share = first + len(files)
		files = append(files, o.Share)
	}
	if o.Memory != nil {
		fds.Memory = first + len(files)
		files = append(files, o.Memory)
	}
	for _, tap := range o.Taps {
		fds.Taps = append(fds.Taps, first+len(files))
		files = append(files, tap)
	}
	return files, fds
}

// closeGuest gives up QEMU's ends, so that its death is a hang-up here.
func (w *wires) closeGuest() {
	for _, f := range []*os.File{w.guest.qmp, w.guest.agent, w.guest.console, w.guest.log, w.lifeline.child} {
		_ = f.Close()
	}
}

// closeHost hangs up on QEMU.
func (w *wires) closeHost() {
	if w.qmp != nil {
		_ = w.qmp.Disconnect()
	}
	if w.agent != nil {
		_ = w.agent.Close()
	}
	_ = w.console.Close()
	_ = w.log.Close()
	_ = w.lifeline.host.Close()
}

// dialMonitor returns go-qemu's monitor and the connected socket that QEMU is to
// serve it on. go-qemu can only dial a path, so it dials a listener of ours; both
// are gone before anything else runs.
func dialMonitor(dir string) (mon *qmp.SocketMonitor, guest *os.File, err error) {
	err = child.Private(dir, func(l *net.UnixListener, path string) (err error) {
		defer func() { err = errors.Join(err, l.Close()) }()
		if mon, err = qmp.NewSocketMonitor("unix", path, time.Second); err != nil {
			return err
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		guest, err = conn.File()
		return errors.Join(err, conn.Close())
	})
	return mon, guest, err
}
