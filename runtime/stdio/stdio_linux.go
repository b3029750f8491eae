// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Config is what a Create or Exec request says about stdio, as it stands there. An empty string is
// no stream. The addresses are the engine's, which is trusted; the files that they name may lie
// where a guest can write.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool   // stderr is not used: a terminal has one output
	ContainerID           string // for a logging binary's environment
	Namespace             string // for a logging binary's environment
}

// Stream is one direction of data to or from the guest.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite tells the guest that no more data comes.
	CloseWrite() error
	// Close ends the stream in both directions, and a Read or Write that is under way.
	Close() error
}

// Streams are a process's streams in the guest: one for each that Wants named. The IO owns them
// from Start on.
type Streams struct {
	Stdin, Stdout, Stderr Stream
	// StdinEOF is called once after stdin ended and was closed towards the guest; it may be nil.
	StdinEOF func()
}

// IO is the host's side of one process's stdio. mu guards the moves from open to started to closed;
// the copies run without it.
type IO struct {
	stdin  *source
	out    [2]*output // stdout, stderr
	logger *logger

	mu      sync.Mutex
	started bool
	closed  bool
	streams Streams
	copies  sync.WaitGroup
}

// Open opens what cfg names and starts its logging binary. It never waits for a FIFO's other end.
// What it returns has to be closed; on an error nothing is left open. ctx bounds the wait for the
// logging binary alone. An address that is not understood is ErrInvalidArgument.
func Open(ctx context.Context, cfg Config) (_ *IO, err error) {
	i := &IO{}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	if cfg.Stdin != "" {
		if i.stdin, err = openSource(cfg.Stdin); err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
	}
	stdout, err := parseTarget(cfg.Stdout)
	if err != nil {
		return nil, fmt.Errorf("stdout: %w", err)
	}
	if cfg.Terminal {
		cfg.Stderr = ""
	}
	stderr, err := parseTarget(cfg.Stderr)
	if err != nil {
		return nil, fmt.Errorf("stderr: %w", err)
	}
	if stdout.isBinary() || stderr.isBinary() {
		return i, i.openLogger(ctx, cfg, stdout, stderr)
	}
	if err := i.openOutput(0, "stdout", stdout); err != nil {
		return nil, err
	}
	return i, i.openOutput(1, "stderr", stderr)
}

// openLogger starts the one binary that takes both outputs. An output that the process does not
// have ends at once for the logger.
func (i *IO) openLogger(ctx context.Context, cfg Config, stdout, stderr target) error {
	t := stdout
	if cfg.Stdout == "" {
		t = stderr
	}
	if cfg.Stdout != "" && cfg.Stderr != "" && cfg.Stdout != cfg.Stderr {
		return fmt.Errorf("stdout %q and stderr %q: a logging binary takes both, want one address: %w",
			cfg.Stdout, cfg.Stderr, errdefs.ErrInvalidArgument)
	}
	l, err := startLogger(ctx, t, cfg.ContainerID, cfg.Namespace)
	if err != nil {
		return err
	}
	i.logger = l
	for n, o := range []struct {
		name, address string
		w             *os.File
	}{{"stdout", cfg.Stdout, l.stdout}, {"stderr", cfg.Stderr, l.stderr}} {
		if o.address != "" {
			i.out[n] = newOutput(o.name, pipeSink{o.w})
		} else if err := o.w.Close(); err != nil { // the logger sees the end of what never comes
			return err
		}
	}
	return nil
}

// openOutput opens one output: number 0 is stdout, 1 stderr.
func (i *IO) openOutput(n int, name string, t target) error {
	s, err := openSink(t)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if s != nil {
		i.out[n] = newOutput(name, s)
	}
	return nil
}

// openSink opens what is not a logging binary; nil for none. A plain path must exist: engines make
// their FIFOs before they call.
func openSink(t target) (sink, error) {
	switch t.kind {
	case kindNone, kindBinary, kindBinaryV2:
	case kindPath:
		info, err := os.Stat(t.path)
		if err != nil {
			return nil, err
		}
		if info.Mode().Type() == os.ModeNamedPipe {
			return openFIFOSink(t.path)
		}
		f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0)
		return fileSink{f}, err
	case kindFile:
		f, err := openLog(t.path)
		return fileSink{f}, err
	}
	return nil, nil
}

// openLog opens a log file, which is made where it is missing. Its folder may be one that a guest
// can write to, a volume for one: so the file must be a regular one, or the null device, and no
// link. Otherwise a guest could have the host's root append its output to any file, or write to a
// device.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	folder, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close() // O_PATH
	// Two outputs may name one file: O_APPEND keeps both.
	f, err := sys.OpenBelow(folder, filepath.Base(path), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOCTTY, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("log %q is a symbolic link: name the file that it leads to: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	// It is opened non-blocking and looked at then: a FIFO or device in its place does no harm
	// before.
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if null := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3); err == nil &&
		st.Mode&unix.S_IFMT != unix.S_IFREG && !null {
		err = fmt.Errorf("log %q is neither a regular file nor the null device: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Wants says which streams Start needs.
func (i *IO) Wants() (stdin, stdout, stderr bool) {
	return i.stdin != nil, i.out[0] != nil, i.out[1] != nil
}

// Start copies between the host and the guest until each stream ends or Close is called. It takes
// over s in every case: the caller never closes a stream after it. A second Start, or one after
// Close, is ErrFailedPrecondition.
func (i *IO) Start(s Streams) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.started || i.closed {
		return errors.Join(fmt.Errorf("stdio was started or closed before: %w", errdefs.ErrFailedPrecondition), s.close())
	}
	i.started, i.streams = true, s
	if i.stdin != nil && s.Stdin != nil {
		i.copies.Go(i.copyStdin)
	}
	for n, stream := range []Stream{s.Stdout, s.Stderr} {
		if o := i.out[n]; o != nil && stream != nil {
			o.running = true
			i.copies.Go(func() { o.copyFrom(stream) })
		}
	}
	return nil
}

// CloseStdin ends stdin as soon as every client has closed its end of it and what they wrote is
// delivered. It does not wait. It may be called more than once.
func (i *IO) CloseStdin() error {
	if i.stdin == nil {
		return nil
	}
	return i.stdin.release()
}

// Close ends all copies, closes everything and waits for the logging binary, bounded. What was not
// drained is lost: call Wait before. It may be called more than once. Streams are closed first,
// which ends the copies.
func (i *IO) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	err := i.streams.close()
	if i.stdin != nil {
		err = errors.Join(err, i.stdin.Close())
	}
	for _, o := range i.out {
		if o != nil {
			err = errors.Join(err, o.sink.Close())
		}
	}
	if i.logger != nil {
		err = errors.Join(err, i.logger.Close())
	}
	i.copies.Wait()
	return err
}

// close closes every stream that is there.
func (s Streams) close() error {
	var err error
	for _, stream := range []Stream{s.Stdin, s.Stdout, s.Stderr} {
		if stream != nil {
			err = errors.Join(err, stream.Close())
		}
	}
	return err
}
