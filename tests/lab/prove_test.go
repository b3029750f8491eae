// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/prove"
	"cloister/tests/lab/wire"
	"cloister/tests/threats"
)

// proves runs `cloister prove`: every attack fails, and each succeeds that root makes without a
// layer. What one layer alone stops is listed in docs/threats.md.
//
// With SELinux the program is in the shim's domain, which alone may enter those of guests. A policy
// of this scenario's has that domain permissive, since root's own attacks must succeed there.
func proves(t *testing.T, l *lab) {
	t.Helper()
	l.sh(t, "ip link set lo up") // its port is attacked
	begin := time.Now()
	program := "/lab/bin/cloister"
	if l.mac == selinuxMAC {
		program = "/lab/bin/cloister-shim-domain"
		w := &world{m: l.machine}
		if err := w.load("proving"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.load("policy"); err != nil {
				t.Error(err)
			}
			l.seen = nil // the attacks' denials
		}()
	}
	// A config of its own: that of SELinux's lab has all sandboxes run as root.
	script := program + " --config " + l.config(t, "prove", "", "", "") +
		" prove --output json 2>/run/lab/prove.err; s=$?; cat /run/lab/prove.err >&2; exit $s"
	answer, err := l.run(wire.Run{Argv: []string{"/bin/sh", "-c", script}, Env: labEnv(), Seconds: 500})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("prove: %.1f s, exit %d", time.Since(begin).Seconds(), answer.Exit)
	text, messages, _ := strings.Cut(answer.Out, "\n}\n")
	var r prove.Report
	if err := json.Unmarshal([]byte(text+"\n}\n"), &r); err != nil {
		t.Fatalf("prove: exit %d: %v: %s", answer.Exit, err, answer.Out)
	}
	t.Log(messages)
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	status := 0
	if threats.Check(t, r) > 0 {
		status = 3
	}
	if answer.Exit != status || r.MAC != string(l.mac) {
		t.Errorf("prove: exit %d, mac %s, want %d, %s", answer.Exit, r.MAC, status, l.mac)
	}
	l.nothingLeft(t, "prove-", "/var/lib/cloister")
	if left := strings.TrimSpace(l.sh(t, "ls -d /tmp/cloister-* /run/cloister/cloister-prove 2>/dev/null || true")); left != "" {
		t.Errorf("left: %s", left)
	}
	l.seen = nil
	fmt.Println(r.Verdict)
}
