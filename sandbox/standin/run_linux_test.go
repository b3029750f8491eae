// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/process"
	"cloister/sandbox/prove"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/tests/testenv"
)

// runtime is an OCI runtime whose container has ended, and has left the number of another process
// in a file that the caller asks for.
const runtime = `#!/bin/sh
while [ $# -gt 0 ]; do
	[ "$1" = --pid-file ] && echo %d >"$2"
	shift
done
echo ready
cat >/dev/null
`

// TestEndKillsNoOtherProcess ends a container whose process is gone, and whose number another
// process has been given.
func TestEndKillsNoOtherProcess(t *testing.T) {
	testenv.NeedRoot(t)
	other := exec.CommandContext(t.Context(), testenv.NeedTool(t, "sleep"), "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- other.Wait() }()
	dir := t.TempDir()
	program := filepath.Join(dir, "runtime")
	if err := os.WriteFile(program, fmt.Appendf(nil, runtime, other.Process.Pid), 0o700); err != nil {
		t.Fatal(err)
	}
	state, err := statedir.New(filepath.Join(dir, "state"), "prove", "c")
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{config: process.Config{Runtime: program}, dir: state, bundle: filepath.Join(dir, "bundle")}
	config := filepath.Join(state.String(), "containers", c.id())
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(fullConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sys.OnThread(func() error {
		// The host's file tree is mounted for the container.
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			return err
		}
		p, err := c.run(t.Context(), exec.CommandContext(t.Context(), "/x"), []prove.Layer{prove.Seccomp})
		if err != nil {
			return err
		}
		if said, err := bufio.NewReader(p).ReadString('\n'); said != "ready\n" {
			t.Errorf("the runtime said %q, %v", said, err)
		}
		if err := p.End(); err == nil || err.Error() != "exit status 0" {
			t.Errorf("End = %v, want the runtime's exit status 0", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := other.Process.Signal(unix.SIGTERM); err != nil {
		t.Errorf("another process that has the number of the container's: %v", err)
	}
	if err := <-gone; err == nil || err.Error() != "signal: terminated" {
		t.Errorf("another process that has the number of the container's ended by %q, want the test's own signal", err)
	}
}
