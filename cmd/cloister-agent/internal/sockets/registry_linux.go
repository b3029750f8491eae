// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/steps"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// StepType is the type of the mount steps that ask for a socket.
const StepType = "socket"

const (
	fromToken  = "token:"
	folderMode = 0o711

	want = 100 * time.Millisecond // between two tries to take a connection
)

// Registry holds the listeners of all containers. A token is known to the host alone, so a stream
// cannot reach the socket of another container by mistake.
type Registry struct {
	mu   sync.Mutex
	open map[guestapi.Token]listener
}

// listener is one socket, and whose it is: Close goes by the container.
type listener struct {
	container string
	*net.UnixListener
}

// NewRegistry makes an empty one. The zero value is not usable.
func NewRegistry() *Registry { return &Registry{open: map[guestapi.Token]listener{}} }

// Listen makes the sockets among a container's steps, below its folder dir. On an error those made
// so far stay: Close takes them away.
func (r *Registry) Listen(container, dir string, list []*guestv1.MountStep) error {
	for _, step := range list {
		if step.GetType() != StepType {
			continue
		}
		if err := r.listen(container, dir, step); err != nil {
			return fmt.Errorf("socket %s: %w", step.GetTarget(), err)
		}
	}
	return nil
}

// listen makes one socket. It is in the table before its mode is set, so that Close finds it after
// an error.
func (r *Registry) listen(container, dir string, step *guestv1.MountStep) error {
	text, ok := strings.CutPrefix(step.GetSource(), fromToken)
	token, err := guestapi.ParseToken(text)
	// Host and agent agree on tokens; a wrong one is an error of the host's, and a target with ".."
	// would leave the container's folder.
	if !ok || err != nil || !filepath.IsLocal(step.GetTarget()) {
		return errors.Join(fmt.Errorf("source %q, target %q: %w", step.GetSource(), step.GetTarget(), errdefs.ErrInvalidArgument), err)
	}
	path := filepath.Join(dir, step.GetTarget())
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return err
	}
	l, err := listenAt(path)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.open[token] = listener{container, l}
	r.mu.Unlock()
	return restrict(path, step.GetOptions())
}

// listenAt goes by the folder's descriptor: the path may be longer than a socket's name. sun_path
// holds 108 bytes, and a container's folder with an id of 128 does not fit.
func listenAt(path string) (*net.UnixListener, error) {
	folder, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path))})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it goes with the container's folder
	return l, nil
}

// restrict gives a socket the mode and owners of the host's; without any it is root's. Chown comes
// first: it clears bits that chmod would have set.
func restrict(path string, options []string) error {
	mode, uid, gid, err := steps.Owner(options, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(path, uid, gid), unix.Chmod(path, mode))
}

// Close ends the listeners of a container. Streams that wait for a connection end with the
// listener; those that carry one go on until it ends.
func (r *Registry) Close(container string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for token, l := range r.open {
		if l.container == container {
			_ = l.UnixListener.Close() // nobody can reach it any more either way
			delete(r.open, token)
		}
	}
}

// Serve carries one connection, the next that somebody in the container makes, over a stream of the
// host, and closes the stream. The host opens one stream ahead, and the next when a client has
// taken it, up to its bound. The agent accepts only with a stream at hand, so clients beyond the
// bound wait in the guest.
func (r *Registry) Serve(stream io.ReadWriteCloser, token guestapi.Token) {
	// However this ends, the host sees it, and may open the next stream.
	defer stream.Close()
	r.mu.Lock()
	l, ok := r.open[token]
	r.mu.Unlock()
	if !ok {
		return
	}
	conn, err := l.AcceptUnix()
	// The listener itself is closed only by Close; any other error, such as EMFILE, passes.
	for err != nil && !errors.Is(err, net.ErrClosed) { // of descriptors there may be some again
		<-time.After(want)
		conn, err = l.AcceptUnix()
	}
	if err != nil {
		return // the host reads it from the stream's end
	}
	defer conn.Close()
	// Tells the host that a client is there: only now does it connect to its own socket.
	if _, err := stream.Write([]byte{guestapi.Connected}); err != nil {
		return
	}
	guestapi.Relay(conn, stream, func() {
		_, _ = io.Copy(guestapi.Frames{Kind: guestapi.FrameInput, To: stream}, conn)
		_ = guestapi.WriteFrame(stream, guestapi.FrameInput, nil) // the client's last word
		_ = guestapi.AwaitHangUp(conn)
	})
	// The host may still write; without a reader the window of this stream fills up and its writer
	// waits for good.
	_, _ = io.Copy(io.Discard, stream) // what a client does not want that has gone
}
