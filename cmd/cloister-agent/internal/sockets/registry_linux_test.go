// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

func step(source, target string, options ...string) []*guestv1.MountStep {
	return []*guestv1.MountStep{{Type: "bind"}, {Type: StepType, Source: source, Target: target, Options: options}}
}

func TestListenRefuses(t *testing.T) {
	for name, list := range map[string][]*guestv1.MountStep{
		"no token":       step("share:a", "sockets/0"),
		"a bad token":    step("token:../a", "sockets/0"),
		"outside":        step("token:a", "../sockets/0"),
		"another option": step("token:a", "sockets/0", "suid"),
	} {
		r, dir := NewRegistry(), filepath.Join(t.TempDir(), "c")
		if err := r.Listen("c", dir, list); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
		r.Close("c")
	}
}

// TestServe has a folder whose name is too long for a socket's, two containers, and a connection
// that ends first on the client's side.
func TestServe(t *testing.T) {
	r, dir := NewRegistry(), filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	options := []string{"mode=620", "uid=0", "gid=0"}
	for _, name := range []string{"a", "b"} {
		if err := r.Listen(name, filepath.Join(dir, name), step("token:"+name, "sockets/0", options...)); err != nil &&
			!errors.Is(err, fs.ErrPermission) {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "a", "sockets", "0")
	if info, err := os.Stat(socket); err != nil || os.Getuid() == 0 && info.Mode().Perm() != 0o620 {
		t.Errorf("mode: %v, %v, want 0620", info, err)
	}
	r.Close("b")
	near, far := net.Pipe()
	r.Serve(far, "b") // returns: nobody listens
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a socket that is closed: %v, want the stream's end", err)
	}
	near, far = net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.Serve(far, "a")
	}()
	t.Chdir(filepath.Dir(socket))
	client, err := (&net.Dialer{}).DialContext(t.Context(), "unix", filepath.Base(socket))
	if err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(near, answer); err != nil || answer[0] != guestapi.Connected {
		t.Errorf("the host reads %q, %v", answer, err)
	}
	half := client.(*net.UnixConn)
	if _, err := half.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"x", ""} { // the empty one is the last word
		if f, err := guestapi.ReadFrame(near, guestapi.FrameInput); err != nil || string(f.Data) != want {
			t.Errorf("the host reads %q, %v, want %q", f.Data, err, want)
		}
	}
	if _, err := near.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(half, answer); err != nil || answer[0] != 'y' {
		t.Errorf("after its last word the client reads %q, %v", answer, err)
	}
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(answer); !errors.Is(err, io.EOF) {
		t.Errorf("after the client: %v, want the stream's end", err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	<-served
	r.Close("a")
}

// TestServeRetriesAfterEMFILE has no descriptor for the first tries to take a connection.
func TestServeRetriesAfterEMFILE(t *testing.T) {
	r, dir := NewRegistry(), t.TempDir()
	if err := r.Listen("a", dir, step("token:a", "sockets/0", "mode=600")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close("a") })
	t.Chdir(filepath.Join(dir, "sockets"))
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	restore := func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &usual) }
	t.Cleanup(func() { _ = restore() })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: usual.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: "0"}); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.Serve(far, "a")
	}()
	select {
	case <-served:
		t.Fatal("the socket is dead")
	case <-time.After(3 * want):
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	_ = near.Close()
	<-served
}
