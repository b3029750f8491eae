// SPDX-License-Identifier: Apache-2.0

package stdio_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/runtime/stdio"
)

// pair is a stream as the host sees it and as the guest sees it.
func pair(t *testing.T) (host, guest *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, cfg stdio.Config) *stdio.IO {
	t.Helper()
	i, err := stdio.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open(%+v) = %v", cfg, err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

func start(t *testing.T, i *stdio.IO, s stdio.Streams) {
	t.Helper()
	if err := i.Start(s); err != nil {
		t.Fatal(err)
	}
}

// hangLimit only catches hangs.
const hangLimit = 2 * time.Minute

func drain(t *testing.T, i *stdio.IO) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hangLimit)
	defer cancel()
	return i.Wait(ctx)
}

// writeAll is the guest: it writes and says that no more comes.
func writeAll(guest *net.UnixConn, data []byte) error {
	_, err := guest.Write(data)
	return errors.Join(err, guest.CloseWrite())
}

func noise(n int) []byte {
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	return data
}

func TestOpenDoesNotWait(t *testing.T) {
	t.Parallel()
	i := open(t, stdio.Config{Stdin: fifo(t, "in"), Stdout: fifo(t, "out"), Stderr: fifo(t, "err")})
	if in, out, err := i.Wants(); !in || !out || !err {
		t.Errorf("Wants = %v, %v, %v, want all", in, out, err)
	}
	if err := i.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := i.Start(stdio.Streams{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start after Close = %v, want failed precondition", err)
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		cfg          stdio.Config
		in, out, err bool
	}{
		{name: "none"},
		{name: "stdout", cfg: stdio.Config{Stdout: "/dev/null"}, out: true},
		{
			name: "terminal", cfg: stdio.Config{Stdin: "/dev/null", Stdout: "/dev/null", Stderr: "/dev/null", Terminal: true},
			in: true, out: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, out, err := open(t, tt.cfg).Wants()
			if in != tt.in || out != tt.out || err != tt.err {
				t.Errorf("Wants = %v, %v, %v, want %v, %v, %v", in, out, err, tt.in, tt.out, tt.err)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tt := range []struct {
		name string
		cfg  stdio.Config
		want error
		text string
	}{
		{"no stdin", stdio.Config{Stdin: missing}, os.ErrNotExist, "stdin"},
		{"no stdout", stdio.Config{Stdout: missing}, os.ErrNotExist, "stdout"},
		{"streaming", stdio.Config{Stdout: "ttrpc+unix:///run/x?stream_id=1"}, errdefs.ErrInvalidArgument, "io_type"},
		{
			"two loggers",
			stdio.Config{Stdout: "binary:///bin/true", Stderr: "binary:///bin/false"},
			errdefs.ErrInvalidArgument, "one address",
		},
		{"no logger", stdio.Config{Stdout: "binary://" + missing}, os.ErrNotExist, "logging binary"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := stdio.Open(t.Context(), tt.cfg)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Open(%+v) = %v, want %v with %q", tt.cfg, err, tt.want, tt.text)
			}
		})
	}
}

// Test100MB sends more than any buffer holds: every byte arrives, and the end.
func Test100MB(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	data := noise(100 << 20)
	sent := make(chan error, 1)
	go func() { sent <- writeAll(guest, data) }()
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
		t.Errorf("read %d bytes, %v: want %d and the same", n, err, len(data))
	}
	if err := errors.Join(<-sent, drain(t, i), i.Close()); err != nil {
		t.Error(err)
	}
}

// TestNextReaderContinuesWithoutGap has a reader leave in the middle: the writer waits, the next
// reader gets what follows without a gap.
func TestNextReaderContinuesWithoutGap(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	data := noise(4 << 20)
	sent := make(chan error, 1)
	go func() { sent <- writeAll(guest, data) }()
	var got bytes.Buffer
	for _, n := range []int64{1000, 1 << 20, 1 << 30} {
		r, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&got, io.LimitReader(r, n)); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	if err := errors.Join(<-sent, drain(t, i)); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("got %d bytes, want the %d that were written", got.Len(), len(data))
	}
}

// TestUnreadStdoutBlocksOnlyItsWriter has nobody read stdout: stderr flows, Wait gives up soon,
// Close does not hang, and the writer was held up all the time.
func TestUnreadStdoutBlocksOnlyItsWriter(t *testing.T) {
	t.Parallel()
	errPath := fifo(t, "err")
	i := open(t, stdio.Config{Stdout: fifo(t, "out"), Stderr: errPath})
	outHost, outGuest := pair(t)
	errHost, errGuest := pair(t)
	start(t, i, stdio.Streams{Stdout: outHost, Stderr: errHost})
	data := noise(8 << 20)
	sent := make(chan error, 1)
	go func() { sent <- writeAll(outGuest, data) }()

	r, err := os.Open(errPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := writeAll(errGuest, []byte("warning")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "warning" {
		t.Errorf("stderr = %q, %v, want it beside a stuck stdout", got, err)
	}
	if err := drain(t, i); err == nil || !strings.Contains(err.Error(), "stdout: output is not drained: nobody reads it") {
		t.Errorf("Wait = %v, want stdout given up", err)
	}
	select {
	case err := <-sent:
		t.Errorf("the writer was not held up: %v", err)
	default:
	}
	if err := i.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := <-sent; err == nil {
		t.Error("a closed stream accepted all data")
	}
}

// TestWaitAllowsForAnIdleReader has a reader that is there and does not read: Wait is patient, and
// looking for readers harms nobody.
func TestWaitAllowsForAnIdleReader(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data := noise(1 << 20)
	sent := make(chan error, 1)
	go func() { sent <- writeAll(guest, data) }()
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	if err := i.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want the context's end", err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v, want all %d", len(got), err, len(data))
	}
	if err := errors.Join(<-sent, drain(t, i)); err != nil {
		t.Error(err)
	}
}

// TestOutputIsKeptForALateReader leaves output in the pipe until after the end of the writer: it is
// kept until Close.
func TestOutputIsKeptForALateReader(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	if err := errors.Join(writeAll(guest, []byte("last words")), drain(t, i)); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); string(got) != "last words" {
		t.Errorf("read %q, %v, want the last output", got, err)
	}
}

// TestReaderMayOpenAfterTheEnd has a client open the FIFO as containerd does, in an open(2) that
// waits for a writer, when the process has long ended: it reads the end all the same.
func TestReaderMayOpenAfterTheEnd(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	if err := errors.Join(guest.Close(), drain(t, i)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		data, err := os.ReadFile(path)
		if len(data) > 0 {
			err = fmt.Errorf("read %q", data)
		}
		read <- err
	}()
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(hangLimit):
		t.Fatal("the reader's open(2) does not return")
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	path := fifo(t, "in")
	i := open(t, stdio.Config{Stdin: path})
	host, guest := pair(t)
	eof := make(chan struct{})
	start(t, i, stdio.Streams{Stdin: host, StdinEOF: func() { close(eof) }})
	write := func(text string) {
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	// A client that leaves is no end: another one attaches.
	buf := make([]byte, 5)
	for _, text := range []string{"first", "other"} {
		write(text)
		if _, err := io.ReadFull(guest, buf); err != nil || string(buf) != text {
			t.Fatalf("guest read %q, %v, want %q", buf, err, text)
		}
	}
	// CloseIO while a client still writes: what it writes arrives, then the end.
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(i.CloseStdin(), i.CloseStdin()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("tail"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got, err := io.ReadAll(guest); err != nil || string(got) != "tail" {
		t.Errorf("guest read %q, %v, want tail and the end", got, err)
	}
	<-eof
}

// TestCloseEndsUnreadStdin has a guest that does not read: Close ends the copy, and a writer on the
// host learns that nobody reads.
func TestCloseEndsUnreadStdin(t *testing.T) {
	t.Parallel()
	path := fifo(t, "in")
	i := open(t, stdio.Config{Stdin: path})
	host, _ := pair(t)
	start(t, i, stdio.Streams{Stdin: host, StdinEOF: func() { t.Error("end of stdin was reported") }})
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 16<<20))
		wrote <- err
	}()
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; !errors.Is(err, unix.EPIPE) {
		t.Errorf("write to stdin after Close = %v, want EPIPE", err)
	}
}

func TestStdin100MB(t *testing.T) {
	t.Parallel()
	path := fifo(t, "in")
	i := open(t, stdio.Config{Stdin: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdin: host})
	data := noise(100 << 20)
	go func() {
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := w.Write(data); err != nil {
			t.Error(err)
		}
		w.Close()
		if err := i.CloseStdin(); err != nil {
			t.Error(err)
		}
	}()
	h := sha256.New()
	if n, err := io.Copy(h, guest); err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
		t.Errorf("guest read %d bytes, %v, want %d and the same", n, err, len(data))
	}
}

// TestFile writes both outputs into one file that has to be made, folder and all.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "c.log")
	i := open(t, stdio.Config{Stdout: "file://" + path, Stderr: "file://" + path})
	outHost, outGuest := pair(t)
	errHost, errGuest := pair(t)
	start(t, i, stdio.Streams{Stdout: outHost, Stderr: errHost})
	if err := errors.Join(writeAll(outGuest, []byte("out\n")), writeAll(errGuest, []byte("err\n")), drain(t, i), i.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if text := string(got); err != nil || len(text) != 8 || !strings.Contains(text, "out\n") || !strings.Contains(text, "err\n") {
		t.Errorf("file = %q, %v, want both lines", got, err)
	}
}

// TestFileRefusesLinksAndSpecialFiles: the log's folder may be a volume.
func TestFileRefusesLinksAndSpecialFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := errors.Join(
		os.WriteFile(secret, []byte("s"), 0o600), os.Symlink("secret", filepath.Join(dir, "link")),
		os.Symlink("new", filepath.Join(dir, "dangling")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "folder"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "dangling", "fifo", "folder"} {
		if i, err := stdio.Open(t.Context(), stdio.Config{Stdout: "file://" + filepath.Join(dir, name)}); err == nil {
			t.Errorf("%s was opened", name)
			_ = i.Close()
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
		t.Error("a file was made through a link")
	}
	i := open(t, stdio.Config{Stdout: "file:///dev/null"})
	if err := i.Close(); err != nil {
		t.Error(err)
	}
}

// TestFullDiskDoesNotBlockTheGuest writes where nothing can be stored: the guest is not held up,
// and Wait says what was lost.
func TestFullDiskDoesNotBlockTheGuest(t *testing.T) {
	t.Parallel()
	i := open(t, stdio.Config{Stdout: "/dev/full"})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	if err := writeAll(guest, noise(1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := drain(t, i); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "1048576 bytes were not delivered") {
		t.Errorf("Wait = %v, want ENOSPC and the number of bytes", err)
	}
}

// TestStreamErrorIsReported ends a stream with an error instead of its end.
func TestStreamErrorIsReported(t *testing.T) {
	t.Parallel()
	i := open(t, stdio.Config{Stdout: fifo(t, "out")})
	broken := errors.New("the machine is gone")
	start(t, i, stdio.Streams{Stdout: brokenStream{broken}})
	if err := drain(t, i); !errors.Is(err, broken) {
		t.Errorf("Wait = %v, want %v", err, broken)
	}
}

type brokenStream struct{ err error }

func (s brokenStream) Read([]byte) (int, error)  { return 0, s.err }
func (s brokenStream) Write([]byte) (int, error) { return 0, s.err }
func (brokenStream) CloseWrite() error           { return nil }
func (brokenStream) Close() error                { return nil }

func loggerURI(t *testing.T, scheme, mode string) (uri, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	return fmt.Sprintf("%s://%s?stdio-logger=%s&dir=%s", scheme, self, mode, dir), dir
}

func TestLogger(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ scheme, mode string }{{"binary", "ready"}, {"binary", "hangup"}, {"binary-v2", "ready"}} {
		t.Run(tt.scheme+" "+tt.mode, func(t *testing.T) {
			t.Parallel()
			uri, dir := loggerURI(t, tt.scheme, tt.mode)
			i := open(t, stdio.Config{Stdout: uri, Stderr: uri, ContainerID: "web", Namespace: "k8s.io"})
			outHost, outGuest := pair(t)
			errHost, errGuest := pair(t)
			start(t, i, stdio.Streams{Stdout: outHost, Stderr: errHost})
			data := noise(5 << 20)
			if err := errors.Join(writeAll(outGuest, data), writeAll(errGuest, []byte("err")), drain(t, i), i.Close()); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string][]byte{
				"stdout": data, "stderr": []byte("err"),
				"env": []byte("CONTAINER_ID=web\nCONTAINER_NAMESPACE=k8s.io"),
			} {
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("logger's %s: %d bytes, %v, want %d", name, len(got), err, len(want))
				}
			}
		})
	}
}

func TestLoggerTerminal(t *testing.T) {
	t.Parallel()
	uri, dir := loggerURI(t, "binary", "ready")
	i := open(t, stdio.Config{Stdout: uri, Stderr: uri, Terminal: true})
	if _, _, stderr := i.Wants(); stderr {
		t.Error("Wants stderr of a terminal")
	}
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	if err := errors.Join(writeAll(guest, []byte("screen")), drain(t, i), i.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir + "/stdout"); string(got) != "screen" {
		t.Errorf("logger's stdout = %q, %v", got, err)
	}
}

func TestLoggerNotReady(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, mode, text string }{
		{"crash", "crash", "ended before it was ready"},
		{"silent", "never-ready", "was not ready within"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			uri, _ := loggerURI(t, "binary-v2", tt.mode)
			ctx, cancel := t.Context(), func() {}
			if tt.mode == "never-ready" {
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
			}
			defer cancel()
			_, err := stdio.Open(ctx, stdio.Config{Stdout: uri, Stderr: uri})
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Open = %v, want %q", err, tt.text)
			}
		})
	}
}

// TestEarlyEndOfTheLoggerIsReported has a logger that ends too early: the container is not held up,
// and Wait says so.
func TestEarlyEndOfTheLoggerIsReported(t *testing.T) {
	t.Parallel()
	uri, _ := loggerURI(t, "binary", "quit")
	i := open(t, stdio.Config{Stdout: uri, Stderr: uri})
	outHost, outGuest := pair(t)
	errHost, errGuest := pair(t)
	start(t, i, stdio.Streams{Stdout: outHost, Stderr: errHost})
	if err := errors.Join(writeAll(outGuest, noise(1<<20)), writeAll(errGuest, nil)); err != nil {
		t.Fatal(err)
	}
	if err := drain(t, i); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Wait = %v, want EPIPE", err)
	}
}

// TestCloseKillsUnresponsiveLogger has a logger that neither reads nor ends: Close kills it within
// its bound.
func TestCloseKillsUnresponsiveLogger(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for both of a logger's time-outs")
	}
	uri, _ := loggerURI(t, "binary", "deaf")
	i := open(t, stdio.Config{Stdout: uri, Stderr: uri})
	outHost, outGuest := pair(t)
	errHost, errGuest := pair(t)
	start(t, i, stdio.Streams{Stdout: outHost, Stderr: errHost})
	go func() { _ = writeAll(outGuest, noise(1<<20)) }()
	_ = errGuest.CloseWrite()
	if err := i.Close(); err == nil || !strings.Contains(err.Error(), "did not end: killed") {
		t.Errorf("Close = %v, want the logger killed", err)
	}
}

// A client that learns of an exit stops reading: what the process wrote must have been read by
// then, and nobody's reading must hold the exit up.
func TestSettle(t *testing.T) {
	for _, read := range []bool{true, false} {
		t.Run(fmt.Sprintf("read=%v", read), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			client, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			i, err := stdio.Open(t.Context(), stdio.Config{Stdout: path})
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			host, guest := pair(t)
			if err := i.Start(stdio.Streams{Stdout: host}); err != nil {
				t.Fatal(err)
			}
			const size = 3 << 20
			go func() {
				_, _ = guest.Write(make([]byte, size))
				_ = guest.Close()
			}()
			var got atomic.Int64
			if read {
				go func() {
					buf := make([]byte, 4096)
					for {
						n, err := client.Read(buf)
						got.Add(int64(n))
						if err != nil {
							return
						}
					}
				}()
			}
			i.Settle(t.Context())
			if read && got.Load() < size-4096 {
				t.Errorf("settled with %d of %d bytes read", got.Load(), size)
			}
		})
	}
}

// TestSettleIsBounded has a process that has ended and left another one behind, which writes to the
// same stream without end: the exit of the first one is told all the same. No pause of the output
// ends the wait here, so that the limit alone does.
func TestSettleIsBounded(t *testing.T) {
	t.Parallel()
	path := fifo(t, "out")
	client, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	i := open(t, stdio.Config{Stdout: path})
	host, guest := pair(t)
	start(t, i, stdio.Streams{Stdout: host})
	go func() { _, _ = io.Copy(io.Discard, client) }()
	go func() { // until the stream is closed
		for {
			if _, err := guest.Write([]byte("x\n")); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), hangLimit)
	defer cancel()
	const limit = 100 * time.Millisecond
	began := time.Now()
	i.SettleWithin(ctx, hangLimit, limit)
	if err := ctx.Err(); err != nil {
		t.Errorf("Settle waits for what another process writes: %v", err)
	}
	if took := time.Since(began); took < limit {
		t.Errorf("Settle took %v while output moved, want %v", took, limit)
	}
}
