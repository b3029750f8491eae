// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestFiles starts root's programs where they may open one folder alone.
func TestFiles(t *testing.T) {
	testenv.NeedRoot(t)
	if LandlockABI() == 0 {
		testenv.Need(t, testenv.Landlock, "the kernel has none")
	}
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, "own"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	run := func(name, script string, f *Files) string {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "dash"), "-c", script+" && echo done")
		cmd.Stdout = w
		if err := (Jail{Files: f, NoNewPrivs: true}).Start(cmd); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, ended(cmd.Wait())); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	for _, tt := range []struct {
		name, script string
		allowed      bool
	}{
		{"read in the tree", "read -r x <" + dir + "/own || [ \"$x\" = x ]", true},
		{"write in the tree", "echo y >" + dir + "/new", true},
		{"read beside it", "read -r x <" + secret + " || [ \"$x\" = x ]", false},
		{"write beside it", "echo y >" + secret, false},
		{"execute another program", "/bin/true", false},
		{"leave the tree", "read -r x <" + dir + "/../../../../etc/passwd", false},
	} {
		if got := run(tt.name, tt.script, &Files{Tree: dir}) == "done"; got != tt.allowed {
			t.Errorf("%s: succeeded %t, want %t", tt.name, got, tt.allowed)
		}
		if run(tt.name, tt.script, nil) != "done" {
			t.Errorf("%s fails without Landlock as well: it shows nothing", tt.name)
		}
	}
}

// TestScopes has a program reach for a process, a socket and a port that are not its own, with
// Landlock and without it.
func TestScopes(t *testing.T) {
	testenv.NeedRoot(t)
	abstract, err := new(net.ListenConfig).Listen(t.Context(), "unix", fmt.Sprintf("@cloister-jail-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	port, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	for _, tt := range []struct {
		name, do string
		abi      int // of Landlock, that knows of it
		denied   unix.Errno
	}{
		{"connect to a port", "connect tcp " + port.Addr().String(), 4, unix.EACCES},
		{"listen at a port", "listen tcp 127.0.0.1:0", 4, unix.EACCES},
		{"connect to an abstract socket", "connect unix " + abstract.Addr().String(), 6, unix.EPERM},
		{"signal a process", fmt.Sprintf("signal %d", os.Getpid()), 6, unix.EPERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if abi := LandlockABI(); abi < tt.abi {
				testenv.Need(t, testenv.Landlock, fmt.Sprintf("the kernel has ABI %d, want %d", abi, tt.abi))
			}
			if got, want := say(t, Jail{Files: &Files{}, NoNewPrivs: true}, tt.do), tt.denied.Error(); !strings.HasSuffix(got, want) {
				t.Errorf("%s: %s, want %s", tt.do, got, want)
			}
			if got := say(t, Jail{NoNewPrivs: true}, tt.do); got != "done" {
				t.Errorf("%s without Landlock: %s: it shows nothing", tt.do, got)
			}
		})
	}
}
