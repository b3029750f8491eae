// SPDX-License-Identifier: Apache-2.0

package stdio_test

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the logging binary: a URI's first argument says so, because a logger's
// environment has nothing else in it.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "stdio-logger" {
		if err := runLogger(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runLogger writes what it gets into dir/stdout and dir/stderr, and its environment into dir/env.
func runLogger(mode string, args []string) error {
	dir := args[1]
	ready := os.NewFile(5, "ready")
	switch mode {
	case "crash":
		os.Exit(3)
	case "never-ready":
		time.Sleep(time.Hour)
	case "hangup": // the first contract's way to be ready
	default:
		if _, err := ready.WriteString("\x00"); err != nil {
			return err
		}
	}
	ready.Close()
	if err := os.WriteFile(dir+"/env", []byte(strings.Join(os.Environ(), "\n")), 0o600); err != nil {
		return err
	}
	switch mode {
	case "deaf": // ends only when killed, reads nothing
		signal.Ignore(unix.SIGTERM)
		time.Sleep(time.Hour)
	case "quit": // ends at once, without reading
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, name := range []string{"stdout", "stderr"} {
		wg.Go(func() { errs[i] = store(os.NewFile(uintptr(3+i), name), dir+"/"+name) })
	}
	wg.Wait()
	if errs[0] != nil {
		return errs[0]
	}
	return errs[1]
}

func store(r io.Reader, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return f.Close()
}
