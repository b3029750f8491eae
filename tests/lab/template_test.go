// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/sandbox/background"
)

// templatesFolder is where the machine's templates are.
const templatesFolder = "/var/lib/cloister/templates"

// memoryType is that of guests' memory.
const memoryType = "cloister_qemu_tmpfs_t"

// awaitTemplate waits for the template that the shim of the first sandbox has built, as by default.
// The labels of its guest were read back as any other's, or the build would have failed.
func (l *lab) awaitTemplate(t *testing.T) {
	t.Helper()
	if l.template != "" {
		return
	}
	begin := time.Now()
	// The loop takes next to nothing of the CPU time that is left to a builder.
	l.template = strings.TrimSpace(l.sh(t, fmt.Sprintf(`for n in $(seq 90); do
  set -- %s/????????????????????????????????
  [ -d "$1" ] && ! pgrep -f '^%s ' >/dev/null && echo "${1##*/}" && exit
  sleep 2; done
pgrep -af '^%[2]s '; ls -la %[1]s; exit 1`, templatesFolder, background.BuilderName)))
	if len(l.template) != 32 {
		t.Fatalf("templates after the first start: %q, want one", l.template)
	}
	t.Logf("template: %.1f s more: %s; %s", time.Since(begin).Seconds(), l.template, brief(denials(l.seen)))
}

// startedFrom wants that the first sandbox was started cold and the second from the template.
func (l *lab) startedFrom(t *testing.T) {
	t.Helper()
	ps := l.sh(t, "cloister ps")
	t.Logf("cloister ps:\n%s", ps)
	for i, want := range []string{"cold", "template " + l.template} {
		l.wantStart(t, ids()[i], want)
	}
	if left := l.sh(t, "ls /run/cloister"); strings.Contains(left, "cloister-templates") {
		t.Errorf("the builder has left its folder: %s", left)
	}
}

// wantStart compares what a sandbox was started from.
func (l *lab) wantStart(t *testing.T, id, want string) {
	t.Helper()
	var box struct {
		Facts struct {
			Start string `json:"start"`
		} `json:"facts"`
	}
	text := l.sh(t, "cloister inspect "+id)
	if err := json.Unmarshal([]byte(text), &box); err != nil {
		t.Fatalf("inspect: %v: %s", err, text)
	}
	if box.Facts.Start != want {
		t.Errorf("%s was started from %q, want %q; %s", id, box.Facts.Start, want, brief(denials(l.seen)))
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
