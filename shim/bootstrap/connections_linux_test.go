// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestClients: a process is a client for as long as it has a connection.
func TestClients(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newConnections(func() {})
	var served []net.Conn
	for range 2 {
		near, err := (&net.Dialer{}).DialContext(t.Context(), "unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := c.Handshake(t.Context(), far)
		if err != nil {
			t.Fatal(err)
		}
		served = append(served, conn)
	}
	for i, want := range [][]int{{os.Getpid()}, {os.Getpid()}, nil} {
		if got := c.clients(); !slices.Equal(got, want) {
			t.Errorf("clients with %d of 2 connections = %v, want %v", 2-i, got, want)
		}
		if i < len(served) {
			_, _ = served[i].Close(), served[i].Close() // counted once
		}
	}
}
