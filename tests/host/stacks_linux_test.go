// SPDX-License-Identifier: Apache-2.0

package host

import (
	"strconv"
	"strings"
	"testing"
)

func TestStacksOfAShim(t *testing.T) {
	const log = `time="2026-01-02T03:04:05Z" level=info msg="stacks:\ngoroutine 7 [running]:\n` +
		`cloister/shim/bootstrap.stacks(...)\n\tcloister/shim/bootstrap/log_linux.go:65\n` +
		`cloister/shim/bootstrap.(*Daemon).handleSignals(0x1, {0x2, 0x3})\n\tcloister/shim/bootstrap/daemon_linux.go:194 +0x174\n\n` +
		`goroutine 21 [syscall]:\nos/signal.signal_recv()\n\truntime/sigqueue.go:152 +0x29\n" sandbox="a \"b\""` + "\n"
	quoted := stacksLine.FindStringSubmatch(log)
	if quoted == nil {
		t.Fatal("no stacks found in the log")
	}
	text, err := strconv.Unquote(quoted[1])
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = strings.Cut(text, "\n")
	const want = "goroutine 7 [running]: shim/bootstrap.stacks < shim/bootstrap.(*Daemon).handleSignals"
	if got := ours(text); got != want {
		t.Errorf("ours = %q, want %q", got, want)
	}
}
