// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// atOnce has the race detector not wait a second at the end of a program.
const atOnce = "GORACE=atexit_sleep_ms=0"

// again starts the test's program in a jail, as one of its tests, and gives what it prints.
func again(t *testing.T, j Jail, test, env string, attr *syscall.SysProcAttr) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t)
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+test+"$")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env, atOnce), w, os.Stderr
	cmd.SysProcAttr = attr
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// order tells the test's program what to do and say; see TestSay.
const order = "JAIL_TEST_SAY"

// say has a program in a jail do one thing, and gives what it says of it.
func say(t *testing.T, j Jail, do string) string {
	t.Helper()
	return sayAs(t, j, do, nil)
}

// sayAs is say of a program that is started with attributes.
func sayAs(t *testing.T, j Jail, do string, attr *syscall.SysProcAttr) string {
	t.Helper()
	out := again(t, j, "TestSay", order+"="+do, attr)
	_, out, ok := strings.Cut(out, "said ")
	if !ok {
		t.Fatalf("%s: it says nothing", do)
	}
	out, _, _ = strings.Cut(out, "\n")
	return out
}

// The order "threads" is of a program whose first thread alone has no_new_privs: the runtime has
// started others before this.
func init() { //nolint:gochecknoinits // later the main goroutine may be on another thread
	if os.Getenv(order) == "threads" {
		_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
}

// TestSay is no test but the program that others start in a jail.
func TestSay(t *testing.T) {
	do, rest, _ := strings.Cut(os.Getenv(order), " ")
	network, address, _ := strings.Cut(rest, " ")
	ctx, answer := context.Background(), "done"
	var err error
	switch do {
	case "":
		return
	case "securebits":
		var bits int
		bits, err = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
		answer = fmt.Sprintf("%#x", bits)
	case "pids":
		var p *PIDs
		if rest != "" {
			err = os.WriteFile("/proc/sys/user/"+rest, []byte("0"), 0)
		}
		if err == nil {
			p, err = NewPIDs(nil)
		}
		_ = p.Close() // always nil
	case "threads":
		err = Jail{NoNewPrivs: true}.Verify(os.Getpid())
	case "signal":
		var pid int
		if _, err = fmt.Sscan(rest, &pid); err == nil {
			err = unix.Kill(pid, 0)
		}
	case "connect":
		_, err = new(net.Dialer).DialContext(ctx, network, address)
	case "listen":
		var plain net.ListenConfig
		plain.SetMultipathTCP(false) // which Landlock does not know of
		_, err = plain.Listen(ctx, network, address)
	default:
		t.Fatalf("%s=%s: not known", order, do)
	}
	if err != nil {
		answer = err.Error()
	}
	fmt.Println("said", answer)
}
