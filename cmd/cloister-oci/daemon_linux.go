// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cloister/cmd/internal/config"
	"cloister/sys"
)

// shimProgram is the daemon, which is installed beside this program or on the PATH. One beside this
// program comes first, so that two versions installed side by side do not mix.
const shimProgram = "containerd-shim-cloister-v2"

// processName is this program for plain containers, and processShim its daemon: installations have
// both as links. Podman and CRI-O give a runtime in their configuration no arguments, so only the
// name can tell the class.
const (
	processName = "cloister-oci-process"
	processShim = "containerd-shim-cloister-process-v2"
)

// daemonName is the daemon of a command line that was called by a name.
func daemonName(called string) string {
	if filepath.Base(called) == processName {
		return processShim
	}
	return shimProgram
}

// dialTimeout bounds the wait for a daemon whose backlog is full. A daemon that hangs must not hang
// every state that an engine polls.
const dialTimeout = 10 * time.Second

// namespace keeps the containers of this root apart from those of containerd, and of other roots.
// It is a name in the shim's records, not a Linux namespace. A hash, since a path is longer than
// the shim's names may be; the default root has a name that people can read.
func (o *options) namespace() (string, error) {
	root, err := filepath.Abs(o.root)
	if err != nil || root == defaultRoot {
		return "oci", err
	}
	sum := sha256.Sum256([]byte(root))
	return fmt.Sprintf("oci-%x", sum[:4]), nil
}

// shim runs an action of the shim for a container, as an engine that keeps its own records does.
// The arguments are containerd's contract. A publish binary that fails and an empty address for
// events mean that nobody wants events: engines poll.
func (o *options) shim(ctx context.Context, d dir, action string) (out string, err error) {
	name, err := shimPath(daemonName(os.Args[0]))
	if err != nil {
		return "", err
	}
	namespace, err := o.namespace()
	if err != nil {
		return "", err
	}
	root, err := filepath.Abs(o.root)
	if err != nil {
		return "", err
	}
	// The address tells sandboxes of different roots apart, as it does those of different
	// containerds.
	cmd := exec.CommandContext(ctx, name, "-namespace", namespace, "-address", root, "-publish-binary", "/bin/false",
		"-id", d.id(), "-bundle", d.bundle(), action)
	cmd.Dir = d.bundle()
	// The shim would take the variables of a containerd that this program happens to run under for
	// its own.
	cmd.Env = o.shimEnv(os.Environ())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		// The shim's message is the reason; its exit status says nothing.
		return "", fmt.Errorf("%s %s: %w: %s", name, action, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// shimEnv leaves out what containerd would say: with neither a newest version nor an address for
// events, start answers with the plain address of a daemon that reports to nobody. Variables of
// systemd's socket activation and notification go too: the daemon outlives this program, and would
// speak for the engine's unit.
func (o *options) shimEnv(env []string) []string {
	var out []string
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "MAX_SHIM_VERSION", "TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE", "SCHED_CORE",
			"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET":
		default:
			out = append(out, v)
		}
	}
	// conmon passes no environment on, so --config is the only way to choose a file.
	if o.config != "" {
		out = append(out, config.Env+"="+o.config)
	}
	return out
}

// shimPath finds the daemon's program by its name.
func shimPath(shim string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), shim)
	if _, err := os.Stat(beside); err == nil {
		return sys.Program(beside)
	}
	name, err := sys.Program(shim)
	if errors.Is(err, errdefs.ErrPermissionDenied) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("%s is neither beside %s nor on the PATH: run make install: %w", shim, self, err)
	}
	return name, nil
}

// startDaemon gives the address of the daemon that serves the container's sandbox, started if
// there is none. A second container of a pod gets the address of the pod's daemon, which the shim
// finds by the engine's annotations.
func (o *options) startDaemon(ctx context.Context, d dir) (string, error) {
	address, err := o.shim(ctx, d, "start")
	return socketPath(address), err
}

// sameDaemon refuses a container that joins the sandbox of containers which were made by this
// program's other name: the daemon's name tells the class of all containers that it serves, and
// this one would quietly have theirs. It comes after startDaemon: of two creates at once, the later
// one finds the address of both.
func (o *options) sameDaemon(r *record, socket string) error {
	all, err := o.all()
	if err != nil {
		return err
	}
	for _, other := range all {
		d, err := o.container(other.ID)
		if err != nil {
			return err
		}
		address, err := os.ReadFile(d.address())
		if errors.Is(err, fs.ErrNotExist) || err == nil && socketPath(string(address)) != socket {
			continue // of another sandbox, or being made or deleted
		}
		if err != nil {
			return err
		}
		if cmp.Or(other.Daemon, shimProgram) != r.Daemon {
			return fmt.Errorf("container %s: its sandbox is served by %s, with container %s in it, and %s was asked for: "+
				"use the same runtime for all containers of a pod", r.ID, cmp.Or(other.Daemon, shimProgram), other.ID, r.Daemon)
		}
	}
	return nil
}

// daemon is a connection with the process that serves a container's sandbox. It is one connection,
// for one verb or for the life of a proxy; close ends it.
type daemon struct {
	taskapi.TTRPCTaskService

	client *ttrpc.Client
}

// errNoDaemon means that nobody serves the container any more: its guest is gone. It is not an
// error of every verb: state and delete work without a daemon.
var errNoDaemon = errors.New("the daemon of the sandbox is not running")

// connect dials a container's daemon. The address is in a file, since the daemon of a pod was
// started for another container.
func (d dir) connect(ctx context.Context) (*daemon, error) {
	address, err := os.ReadFile(d.address())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoDaemon
	}
	if err != nil {
		return nil, err
	}
	return dial(ctx, socketPath(string(address)))
}

// dial connects to a daemon. A refused connection counts as no daemon: the file of a socket
// outlives a daemon that was killed.
func dial(ctx context.Context, path string) (*daemon, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	client := ttrpc.NewClient(conn)
	return &daemon{taskapi.NewTTRPCTaskClient(client), client}, nil
}

// close ends the connection; the daemon goes on.
func (d *daemon) close() { _ = d.client.Close() }

// socketPath is the path in the address that start prints.
func socketPath(address string) string {
	return strings.TrimPrefix(strings.TrimSpace(address), "unix://")
}

// plain is the daemon's error in the daemon's words, without the call's class. Engines show the
// text to people and search it for words; the class of the RPC would stand in between.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return callError{s.Message(), s.Code()}
	}
	return err
}

// callError is a daemon's answer. The class is kept beside the text for notFound.
type callError struct {
	text string
	code codes.Code
}

func (e callError) Error() string { return e.text }

// notFound tells an answer about a process that has ended or never was.
func notFound(err error) bool { return hasCode(err, codes.NotFound) }

func hasCode(err error, code codes.Code) bool {
	var e callError
	return errors.As(plain(err), &e) && e.code == code
}
