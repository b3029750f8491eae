// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/prove"
	"cloister/tests/lab/wire"
	"cloister/tests/threats"
)

// proves runs `cloister prove`, and then the attacks of tests/machine/fileserver on a file server
// that is confined as this host confines it. Every attack fails, and each succeeds that root makes
// without a layer. What one layer alone stops is listed in docs/threats.md.
//
// With SELinux the programs are in the shim's domain, which alone may enter those of guests. A
// policy of this scenario's has that domain permissive, since root's own attacks must succeed
// there. Fedora's conditions change no layer of QEMU's: prove would take a minute and show the
// same.
func proves(t *testing.T, l *lab) {
	t.Helper()
	l.sh(t, "ip link set lo up") // its port is attacked
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	program := "/lab/bin/cloister"
	if l.mac == selinuxMAC {
		program = "/lab/bin/cloister-shim-domain"
		w := &world{m: l.machine}
		if err := w.load("proving"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.load("policy"); err != nil && l.lost == "" {
				t.Error(err)
			}
			l.seen = nil // the attacks' denials
		}()
	}
	r := prove.Report{MAC: string(l.mac)}
	if l.mac != selinuxMAC || kind != fedoraPolicy {
		l.part(t, "cloister", func(t *testing.T) { r = l.proved(t, program, "vm") })
	}
	if l.mac != noMAC && (l.mac != selinuxMAC || kind == debianPolicy) {
		l.part(t, "containers", func(t *testing.T) { l.containers(t, l.proved(t, program, "process")) })
	}
	l.part(t, "fileserver", func(t *testing.T) { r = merged(r, l.fileServer(t)) })
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	l.layers(t, r)
	l.nothingLeft(t, "prove-", "/var/lib/cloister")
	l.nothingLeft(t, "fileserver", "/var/lib/cloister")
	const places = "/tmp/cloister-* /tmp/TestFileServer* /sys/fs/cgroup/cloister-fileserver* /run/cloister/cloister-prove"
	if left := strings.TrimSpace(l.sh(t, "ls -d "+places+" 2>/dev/null || true")); left != "" {
		t.Errorf("left: %s", left)
	}
	l.seen = nil
	fmt.Println(r.Verdict)
}

// layers compares a report with docs/threats.md, both ways where a driver confines and all attacks
// are made. Without a driver the document also tells of other kernels.
func (l *lab) layers(t *testing.T, r prove.Report) {
	t.Helper()
	threats.Check(t, r)
	if kind, err := chosenPolicy(); err == nil && l.mac != noMAC && (l.mac != selinuxMAC || kind == debianPolicy) {
		threats.NoStaleRow(t, r)
	}
}

// containers looks at the report of plain containers, which is one of its own.
func (l *lab) containers(t *testing.T, r prove.Report) {
	t.Helper()
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	l.layers(t, r)
	fmt.Println(r.Verdict)
}

// proved is the report of `cloister prove` about a class.
func (l *lab) proved(t *testing.T, program, class string) prove.Report {
	t.Helper()
	begin := time.Now()
	// A config of its own: that of SELinux's lab has all sandboxes run as root.
	script := program + " --config " + l.config(t, "prove", "", "", "") +
		" prove --class " + class + " --output json 2>/run/lab/prove.err; s=$?; cat /run/lab/prove.err >&2; exit $s"
	answer, err := l.run(wire.Run{Argv: []string{"/bin/sh", "-c", script}, Env: labEnv(), Seconds: 300})
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
	status := 0
	if len(r.Succeeded()) > 0 {
		status = 3
	}
	if answer.Exit != status || r.MAC != string(l.mac) || r.Class != class {
		t.Errorf("prove: exit %d, mac %s, class %s, want %d, %s, %s", answer.Exit, r.MAC, r.Class, status, l.mac, class)
	}
	return r
}

// fileServer is the report of the attacks on the file server, and from its place.
func (l *lab) fileServer(t *testing.T) prove.Report {
	t.Helper()
	const to = "/run/lab/fileserver.json"
	begin := time.Now()
	answer, err := l.run(wire.Run{
		Argv: []string{"/lab/bin/fileserver.test", "-test.run=^TestFileServerMatrix$"},
		Env: append(labEnv(), "TEST_MAC="+string(l.mac), "TEST_ATTACKER=/lab/probe/attacker", "TEST_REPORT="+to,
			"REQUIRE=root,virtiofsd"),
		Seconds: 800,
	})
	if err != nil || answer.Exit != 0 {
		t.Fatalf("attacks on the file server: %v, exit %d: %s", err, answer.Exit, answer.Out)
	}
	t.Logf("attacks on the file server: %.1f s", time.Since(begin).Seconds())
	var r prove.Report
	if err := json.Unmarshal([]byte(l.sh(t, "cat "+to)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// merged adds to a report what another one has more. An attack that both made is the first one's.
func merged(r, more prove.Report) prove.Report {
	for _, layer := range more.Layers {
		if !slices.Contains(r.Layers, layer) {
			r.Layers = append(r.Layers, layer)
		}
	}
	for _, o := range more.Outcomes {
		if !slices.ContainsFunc(r.Outcomes, func(have prove.Outcome) bool {
			return have.By == o.By && have.Attack == o.Attack && have.On == o.On
		}) {
			r.Outcomes = append(r.Outcomes, o)
		}
	}
	r.Verdict = r.Closing()
	return r
}
