// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// templatesFolder is where the machine's templates are.
const templatesFolder = "/var/lib/cloister/templates"

// memoryType is that of guests' memory.
const memoryType = "cloister_qemu_tmpfs_t"

// buildTemplate makes the template that sandboxes of the default size start from, unless it is
// there, and gives the config that they need for it. With SELinux the program is in the shim's
// domain, which alone may enter those of guests.
func (l *lab) buildTemplate(t *testing.T) (config string) {
	t.Helper()
	config = l.config(t, "template", "", "", boxTables(l.mac, "auto"))
	if l.template != "" {
		return config
	}
	begin := time.Now()
	program := "/lab/bin/cloister"
	if l.mac == selinuxMAC {
		program = "/lab/bin/cloister-shim-domain"
	}
	answer, err := l.run(wire.Run{Argv: []string{program, "--config", config, "template", "build"}, Env: labEnv(), Seconds: 200})
	if err != nil || answer.Exit != 0 {
		t.Fatalf("template build: %v, exit %d: %s: %s", err, answer.Exit, answer.Out, brief(denials(answer.Audit)))
	}
	l.template, _, _ = strings.Cut(answer.Out, ":")
	t.Logf("template: %.1f s: %s", time.Since(begin).Seconds(), strings.TrimSpace(answer.Out))
	return config
}

// startedFrom wants that the first sandbox was started cold and the second from the template.
func (l *lab) startedFrom(t *testing.T) {
	t.Helper()
	ps := l.sh(t, "cloister ps")
	t.Logf("cloister ps:\n%s", ps)
	for i, want := range []string{"cold", "template " + l.template} {
		word, _, _ := strings.Cut(want, " ")
		if !slices.ContainsFunc(strings.Split(ps, "\n"), func(line string) bool {
			row := strings.Fields(line)
			return len(row) > 1 && row[1] == ids()[i] && slices.Contains(row, word)
		}) {
			t.Errorf("cloister ps does not show that %s was started from %s", ids()[i], word)
		}
		got := l.startOf(t, ids()[i])
		if got.Facts.Start != want {
			t.Errorf("%s was started from %q, want %q; %s", ids()[i], got.Facts.Start, want, brief(denials(l.seen)))
		}
	}
	// A guest that is restored has to go on with KVM's clock, which knows the host's.
	for _, id := range ids() {
		source, err := l.made.ctr("task", "exec", "--exec-id", "clock", id,
			"cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
		if source = strings.TrimSpace(source); err != nil || source != "kvm-clock" {
			t.Errorf("the clock source of %s is %q, %v, want kvm-clock", id, source, err)
		}
	}
	if left := l.sh(t, "ls /run/cloister"); strings.Contains(left, "cloister-templates") {
		t.Errorf("the builder has left its folder: %s", left)
	}
}

// cloneLabels reads back what SELinux has for a sandbox from a template. All threads have its pair
// and so has its memory, which the shim has made. Its user alone may open it. The template's own
// files have the type that no guest may use.
func (l *lab) cloneLabels(t *testing.T) {
	t.Helper()
	label, pid := l.level(t, ids()[1])
	parsed, err := labels.Parse(label)
	if err != nil {
		t.Fatal(err)
	}
	threads := strings.Fields(strings.ReplaceAll(l.sh(t,
		fmt.Sprintf("for t in /proc/%d/task/*; do cat $t/attr/current; echo; done", pid)), "\x00", ""))
	for _, got := range threads {
		if got != label {
			t.Errorf("a thread of QEMU runs as %s, want %s", got, label)
		}
	}
	// QEMU has the file twice: inherited, and opened by name.
	memory := strings.TrimSpace(l.sh(t, fmt.Sprintf(
		`for f in /proc/%d/fd/*; do case $(readlink $f) in /memfd:*) stat -L -c '%%C %%a' $f;; esac; done | sort -u`, pid,
	)))
	if want := object(memoryType, parsed.Range.String()) + " 600"; memory != want {
		t.Errorf("the memory has label and mode %q, want %q", memory, want)
	}
	files := strings.TrimSpace(l.sh(t, "stat -c '%C %a %n' "+templatesFolder+" $(find "+templatesFolder+"/"+l.template+")"))
	for line := range strings.Lines(files) {
		label, rest, _ := strings.Cut(line, " ")
		mode, _, _ := strings.Cut(rest, " ")
		if !strings.HasSuffix(label, ":object_r:"+policy.VarLibType+":s0") || mode != "700" && mode != "400" {
			t.Errorf("a file of the template: %s, want type %s at s0, for its owner alone", strings.TrimSpace(line), policy.VarLibType)
		}
	}
	t.Logf("%d threads at %s, memory %s; template:\n%s", len(threads), parsed.Range, memory, files)
}
