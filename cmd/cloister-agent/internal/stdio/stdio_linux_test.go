// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

// ends gives a registry that is fed from the host's client.
func ends(t *testing.T) (*Registry, *guestapi.Client) {
	t.Helper()
	host, guest := net.Pipe()
	r := NewRegistry(os.Getuid(), os.Getgid())
	go serve(guest, r)
	c, _, err := guestapi.NewClient(t.Context(), host, guestapi.Machine{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return r, c
}

func serve(conn net.Conn, r *Registry) {
	session, err := guestapi.Serve(conn, guestapi.Hello{Protocol: guestapi.Protocol, AgentVersion: "test"})
	for err == nil {
		var s *yamux.Stream
		if s, err = session.AcceptStream(); err != nil {
			return
		}
		name, nameErr := guestapi.ReadStreamName(s)
		if token, ok := name.Token(); ok && nameErr == nil {
			r.Put(token, s)
		}
	}
}

func stream(t *testing.T, c *guestapi.Client, token guestapi.Token) *guestapi.Stream {
	t.Helper()
	s, err := c.OpenStream(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, r *Registry, dir string, terminal bool, names Names) *Pipes {
	t.Helper()
	p, err := r.Open(t.Context(), dir, terminal, names)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPipesCarryEveryByteAndEOF(t *testing.T) {
	r, c := ends(t)
	in, out, errs := stream(t, c, "in"), stream(t, c, "out"), stream(t, c, "err")
	p := open(t, r, t.TempDir(), false, Names{"in", "out", "err"})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // four windows
	go func() {
		_, _ = in.Write(sent)
		_ = in.CloseWrite()
	}()
	// The process: it copies its input and says a word on stderr.
	process := make(chan error, 1)
	stdin, stdout, stderr := dup(t, p.Stdin), dup(t, p.Stdout), dup(t, p.Stderr)
	p.Started()
	go func() {
		_, err := io.Copy(stdout, stdin)
		_, err2 := io.WriteString(stderr, "done")
		process <- errors.Join(err, err2, stdin.Close(), stdout.Close(), stderr.Close())
	}()
	got, err := io.ReadAll(out)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("stdout: %d bytes of %d, %v", len(got), len(sent), err)
	}
	if word, err := io.ReadAll(errs); string(word) != "done" || err != nil {
		t.Errorf("stderr: %q, %v", word, err)
	}
	if err := <-process; err != nil {
		t.Error(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// dup is the process's copy of its end, as fork gives it.
func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "process's end")
}

func TestUnreadOutputBlocksTheWriter(t *testing.T) {
	r, c := ends(t)
	out := stream(t, c, "out")
	p := open(t, r, t.TempDir(), false, Names{Stdout: "out"})
	const size = 4 << 20
	wrote := make(chan error, 1)
	stdout := dup(t, p.Stdout)
	p.Started()
	go func() {
		_, err := stdout.Write(make([]byte, size))
		wrote <- errors.Join(err, stdout.Close())
	}()
	select {
	case err := <-wrote:
		t.Fatalf("%d bytes were written without a reader: %v", size, err)
	case <-time.After(100 * time.Millisecond):
	}
	n, err := io.Copy(io.Discard, out)
	if n != size || err != nil {
		t.Errorf("read %d bytes, %v, want %d", n, err, size)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestCloseIsBounded(t *testing.T) {
	r, c := ends(t)
	stream(t, c, "out")
	stream(t, c, "in")
	p := open(t, r, t.TempDir(), false, Names{Stdin: "in", Stdout: "out"})
	go func() { _, _ = p.Stdout.Write(make([]byte, 4<<20)) }() // nobody reads
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- p.Close(ctx) }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
}

func TestTerminalHasFIFOs(t *testing.T) {
	r, c := ends(t)
	in, out := stream(t, c, "in"), stream(t, c, "out")
	dir := t.TempDir()
	p := open(t, r, dir, true, Names{Stdin: "in", Stdout: "out"})
	stdout, err := os.OpenFile(p.FIFOs.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := os.OpenFile(p.FIFOs.Stdin, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.Started()
	_, _ = io.WriteString(in, "typed")
	_ = in.CloseWrite()
	if got, err := io.ReadAll(stdin); string(got) != "typed" || err != nil {
		t.Errorf("stdin: %q, %v", got, err)
	}
	_, _ = io.WriteString(stdout, "shown")
	_ = stdout.Close()
	if got, err := io.ReadAll(out); string(got) != "shown" || err != nil {
		t.Errorf("stdout: %q, %v", got, err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	r, _ := ends(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, want := range map[string]error{
		"never-opened": errdefs.ErrNotFound,
		"../x":         errdefs.ErrInvalidArgument, strings.Repeat("a", 65): errdefs.ErrInvalidArgument,
	} {
		if _, err := r.Open(ctx, t.TempDir(), false, Names{Stdout: name}); !errors.Is(err, want) {
			t.Errorf("Open(%q) = %v, want %v", name, err, want)
		}
	}
}

// TestDiscardDropsTheRuntimesOutput has the runtime write into the streams of a process that then
// does not start.
func TestDiscardDropsTheRuntimesOutput(t *testing.T) {
	for _, started := range []bool{false, true} {
		r, c := ends(t)
		out, errs := stream(t, c, "out"), stream(t, c, "err")
		p := open(t, r, t.TempDir(), false, Names{Stdout: "out", Stderr: "err"})
		if _, err := p.Stderr.WriteString("not found"); err != nil {
			t.Fatal(err)
		}
		want := ""
		if started {
			p.Started()
			want = "not found"
		} else {
			p.Discard()
		}
		if got, err := io.ReadAll(errs); string(got) != want || err != nil {
			t.Errorf("started %t: stderr = %q, %v, want %q", started, got, err, want)
		}
		if got, err := io.ReadAll(out); len(got) > 0 || err != nil {
			t.Errorf("started %t: stdout = %q, %v, want none", started, got, err)
		}
		if p.ExecFailed() {
			t.Error("no program failed to be executed")
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
