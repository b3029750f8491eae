// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"testing"
)

// TestStdinWaitsForTheDaemon: a daemon that opens stdin late, when the engine has said all and has
// closed its end, still reads all of it.
func TestStdinWaitsForTheDaemon(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &streams{null: null}
	stdin, engine, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	name, err := s.read(stdin, func(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.WriteString("in\n"); err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	if err := s.start(func() { close(told) }); err != nil {
		t.Fatal(err)
	}
	<-told
	got, err := os.ReadFile(name)
	if err != nil || string(got) != "in\n" {
		t.Errorf("the daemon reads %q, %v, want what the engine said", got, err)
	}
}
