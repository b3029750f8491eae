// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// addressFile is where containerd 1.6 and 1.7 look for a daemon after their own restart.
	addressFile = "address"
	// readyTimeout bounds the daemon's start: it opens no machine, so this is far more than it
	// needs on a busy host.
	readyTimeout = 20 * time.Second
	// maxReady bounds what the daemon says on its ready pipe.
	maxReady = 64 << 10
	readyOK  = "ready"
)

// The daemon's inherited files, after stdin, stdout and stderr.
const (
	fdSocket = 3 + iota
	fdReady
	fdMounts
)

// start answers with the address of the group's daemon, which it makes when there is none.
// containerd reads stdout and stderr as one answer: nothing else may be printed. On an error no
// daemon is left that this call has made. A start that is killed leaves a daemon that nobody knows:
// it leaves by itself when no client comes (firstClientTimeout).
func (cfg Config) start(ctx context.Context, r Request) (err error) {
	input, err := readInput(os.Stdin)
	if err != nil {
		return err
	}
	params := parseParams(input, r.ID, r.Namespace)
	if params != nil {
		r.apply(params)
	}
	group, err := groupOf(r.Bundle, r.ID, func(pid int) (string, string, error) {
		if cfg.Owner == nil {
			return "", "", errdefs.ErrNotFound
		}
		return cfg.Owner(ctx, r.Namespace, pid)
	})
	if err != nil {
		return err
	}
	path, err := socketPath(params.GetSocketDir(), cfg.Name, r, group)
	if err != nil {
		return err
	}
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("socket of group %q: %w", group, err)
	}
	if l != nil {
		var joined string
		if joined, err = shimCgroup(params, input); err != nil {
			return errors.Join(err, l.Close(), removeSocket(path))
		}
		var daemon *os.Process
		if daemon, err = cfg.startDaemon(r, group, path, joined, l); err != nil {
			return errors.Join(err, removeSocket(path))
		}
		defer func() { err = orEnd(daemon, path, err) }()
	}
	address := unixScheme + path
	// It is written for a daemon that was there already too: each task has a bundle of its own.
	if err := os.WriteFile(filepath.Join(r.Bundle, addressFile), []byte(address), 0o600); err != nil {
		return err
	}
	f := decideForm(params != nil, r.GRPCAddress, os.Getenv("MAX_SHIM_VERSION"), fmt.Sprintf("/proc/%d/exe", os.Getppid()))
	answer, err := f.encode(address, cfg.Mounts)
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGPIPE) // of a containerd that was killed meanwhile: it is to be the error below
	_, err = os.Stdout.Write(answer)
	return err
}

// orEnd ends the daemon, of which nobody has been told, when there is an error.
func orEnd(daemon *os.Process, path string, err error) error {
	if err == nil {
		return daemon.Release()
	}
	return errors.Join(err, daemon.Kill(), removeSocket(path))
}

// apply takes over what the params say better than the arguments. An address that they leave out is
// the arguments'.
func (r *Request) apply(params *bootapi.BootstrapParams) {
	r.Debug = r.Debug || params.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG
	for _, v := range []struct {
		to   *string
		from string
	}{
		{&r.GRPCAddress, params.GetContainerdGrpcAddress()},
		{&r.TTRPCAddress, params.GetContainerdTtrpcAddress()},
		{&r.ContainerdBinary, params.GetContainerdBinary()},
	} {
		if v.from != "" {
			*v.to = v.from
		}
	}
}

// startDaemon starts the daemon, in the cgroup joined if that is not empty, and waits until it
// serves l. It closes l.
func (cfg Config) startDaemon(r Request, group, path, joined string, l *net.UnixListener) (*os.Process, error) {
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	ready, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd, err := daemonCommand(r, group, path)
	if err != nil {
		return nil, errors.Join(err, readyW.Close())
	}
	logs, err := openLog(r.Bundle)
	if err != nil {
		return nil, errors.Join(err, readyW.Close())
	}
	if logs != nil {
		defer logs.Close()
		cmd.Stderr = logs
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, errors.Join(err, readyW.Close())
	}
	defer mounts.Close()
	cmd.ExtraFiles = []*os.File{fdSocket - 3: socket, fdReady - 3: readyW, fdMounts - 3: mounts}
	err = cmd.Start()
	_ = readyW.Close() // else ready never ends
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	// It is moved before anybody can call it.
	if joined != "" {
		err = cfg.Join(joined, cmd.Process.Pid)
	}
	if err := errors.Join(err, setOOMScore(cmd.Process.Pid), waitReady(ready)); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return cmd.Process, nil
}

// daemonCommand is this executable in a session and a mount namespace of its own. The arguments
// look like those of runc's shim, because people and tools find a shim by them.
func daemonCommand(r Request, group, path string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{
		"-namespace", r.Namespace, "-id", r.ID, "-address", r.GRPCAddress,
		"-publish-binary", r.ContainerdBinary, "-bundle", r.Bundle, "-group", group, "-socket", path,
	}
	if r.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, append(args, actionServe)...) //nolint:noctx // the daemon outlives start
	cmd.Args[0] = os.Args[0]
	cmd.Dir = r.Bundle
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+r.TTRPCAddress, "OTEL_SERVICE_NAME=containerd-shim-"+r.ID)
	// Not Unshareflags: with those os/exec makes every mount private, and what the host mounts
	// later would stay unseen.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	return cmd, nil
}

// waitReady reads the daemon's verdict on itself: readyOK, or an error's text. The end of the pipe
// without a word means that the daemon has died.
func waitReady(ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(ready, maxReady))
	switch text := strings.TrimSpace(string(said)); {
	case err != nil:
		return fmt.Errorf("wait %s for the daemon: %w", readyTimeout, err)
	case text == "":
		return errors.New("the daemon ended before it was ready: containerd's log has its last messages")
	case text != readyOK:
		return errors.New(text)
	}
	return nil
}

// ignoreExit drops the exit status of a daemon that was killed.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// openLog opens the bundle's log; nil when there is none. containerd makes a FIFO, whose other end
// is its stderr. Opened for both directions it neither blocks here nor breaks while containerd
// restarts, and what is written meanwhile waits in the pipe. The OCI command line makes a file.
func openLog(bundle string) (*os.File, error) {
	path := filepath.Join(bundle, "log")
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() && info.Mode().Type() != os.ModeNamedPipe {
		return nil, nil //nolint:nilerr // started by hand
	}
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
}

// setOOMScore makes the daemon one point likelier to be killed than containerd, as every shim does.
// Without CAP_SYS_RESOURCE a score cannot always be set; that is no reason not to run.
func setOOMScore(pid int) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return nil //nolint:nilerr // the parent has ended: nobody waits for the daemon either
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("oom_score_adj of containerd: %w", err)
	}
	err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, 1000))), 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil
	}
	return err
}
