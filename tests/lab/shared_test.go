// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// mapping is a sandbox on disks whose QEMU has a template's memory mapped copy-on-write.
type mapping struct {
	id, label string // of its QEMU
	pid       int
	memory    string // path of the descriptor in /proc
	file      string // inode, size, mode and label of the memory
}

// mapped starts two sandboxes on disks. Each has one memory file, and it is the same.
func (l *lab) mapped(t *testing.T) []mapping {
	t.Helper()
	l.second(t)
	l.buildTemplate(t)
	config := l.config(t, "shared", "", "", "[machine]\nfile_server = \"needed\"\n"+boxTables(l.mac, "manual"))
	const format = "%i %s %a %C"
	var all []mapping
	for _, id := range []string{"mapped1", "mapped2"} {
		l.sh(t, fmt.Sprintf("%s run --detach --snapshotter blockfile --runtime io.containerd.cloister.v2 "+
			"--runtime-config-path %s %s %s sleep 1500", two, config, images.BusyboxName, id))
		text := l.sh(t, "cloister inspect "+id+" --output '{{.facts.memory}}'")
		if got := strings.TrimSpace(text); got != "copy-on-write of the template's" {
			t.Errorf("the memory of %s is %q; %s", id, got, brief(denials(l.seen)))
		}
		m := mapping{id: id}
		m.label, m.pid = l.level(t, id)
		// QEMU has the file twice: inherited, and opened by name.
		for line := range strings.Lines(l.sh(t, fmt.Sprintf(
			`for f in /proc/%d/fd/*; do case $(readlink $f) in /memfd:*) echo "$f $(stat -L -c '%s' $f)";; esac; done`, m.pid, format,
		))) {
			path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
			if m.file != "" && m.file != file {
				t.Errorf("the QEMU of %s has the memory %q and %q, want one", id, m.file, file)
			}
			m.memory, m.file = path, file
		}
		all = append(all, m)
		t.Logf("%s: QEMU %d at %s, memory %s: %s", id, m.pid, m.label, m.memory, m.file)
	}
	if all[0].file != all[1].file || all[0].file == "" {
		t.Fatalf("the sandboxes have mapped %q and %q, want one file", all[0].file, all[1].file)
	}
	return all
}

// unmap ends them.
func (l *lab) unmap(t *testing.T, all []mapping) {
	t.Helper()
	for _, m := range all {
		l.sh(t, fmt.Sprintf("%[1]s task kill --signal KILL %[2]s; until %[1]s task delete --force %[2]s; do sleep 0.2; done; "+
			"%[1]s container delete %[2]s", two, m.id))
	}
	if left := l.sh(t, "ls "+templatesFolder); strings.Contains(left, "shared-") {
		t.Errorf("notes of the shared memory are left: %s", left)
	}
}

// sharedMemory has two sandboxes on disks map the memory of one template, and attacks that memory.
// It has the type for that and no pair. What runs under the label of a sandbox's QEMU can neither
// change nor lock nor execute it, whether its sandbox maps it or not. Others cannot even have it.
func sharedMemory(t *testing.T, l *lab) {
	l.seen = nil
	all := l.mapped(t)
	if want := " 666 " + object(policy.TemplateType, "s0"); !strings.HasSuffix(all[0].file, want) {
		t.Errorf("the memory is %q, want it to end in %q", all[0].file, want)
	}
	if all[0].label == all[1].label {
		t.Errorf("both run as %s, want pairs that differ", all[0].label)
	}
	unexpected(t, l.machine)
	page := func() string {
		return l.sh(t, "head -c 65536 "+all[0].memory+" | md5sum; stat -L -c '%s %a %C' "+all[0].memory)
	}
	before := page()
	for _, a := range onShared(t, all) {
		l.tryShared(t, all[0], a)
	}
	if after := page(); after != before {
		t.Errorf("the memory was %q before the attacks, and is %q", before, after)
	}
	t.Logf("changed at %s", strings.TrimSpace(l.sh(t, "date; stat -L -c '%y' "+all[0].memory)))
	for _, m := range all { // and the guests go on
		out := l.sh(t, two+" task exec --exec-id x "+m.id+" uname -r")
		t.Logf("%s: the guest's kernel: %s", m.id, strings.TrimSpace(out))
	}
	unexpected(t, l.machine)
	l.unmap(t, all)
	for _, m := range all {
		l.nothingLeft(t, m.id, "/var/lib/cloister")
	}
}

// sharedAttempt is one thing that is tried with the memory of a sandbox, under the policy as it is
// installed.
type sharedAttempt struct {
	from, level string // domain and level of the attacker
	try         string // with the memory as descriptor 3, or in a socket
	want        string // the error; empty: it works
	denied      want   // by which permission; zero: by the seals
}

// onShared is the attack by QEMUs of three pairs: that of the memory's sandbox, of the other one
// that maps it, and of one that does not; by a file server, which has no right to it at any pair;
// by a plain container.
func onShared(t *testing.T, all []mapping) []sharedAttempt {
	t.Helper()
	levels := []string{levelA}
	for _, m := range all {
		label, err := labels.Parse(m.label)
		if err != nil {
			t.Fatal(err)
		}
		levels = append(levels, label.Range.String())
	}
	right := func(kind, permission string) want { return want{kind, policy.TemplateType, "file", permission} }
	var list []sharedAttempt
	for _, level := range levels {
		add := func(try, err string, denied want) {
			list = append(list, sharedAttempt{"qemu", level, try, err, denied})
		}
		// What a QEMU does with it: the controls of all others.
		add("inherited", "", want{})
		add("inherited open", "", want{})
		add("inherited private", "", want{})
		for _, try := range []string{"write", "map", "truncate", "grow", "hole"} {
			add("inherited "+try, "EPERM", want{})
		}
		for try, permission := range map[string]string{
			"lock": "lock", "append": "append", "mode": "setattr", "times": "setattr", "map-exec": "execute",
			"label " + object("cloister_image_t", level): "relabelfrom",
		} {
			add("inherited "+try, "EACCES", right(policy.QEMUType, permission))
		}
		if level != levels[1] {
			add("open-rw {memory}", "EACCES", want{policy.QEMUType, policy.QEMUType, "dir", "search"})
		}
	}
	for _, level := range levels {
		list = append(list,
			sharedAttempt{"virtiofsd", level, "inherited", "EACCES", right(policy.VirtiofsdType, "read")},
			sharedAttempt{"virtiofsd", level, "received", "EACCES", right(policy.VirtiofsdType, "read")},
			sharedAttempt{"virtiofsd", level, "received write", "EACCES", right(policy.VirtiofsdType, "write")},
			sharedAttempt{"container", level, "inherited", "EACCES", right(policy.ContainerType, "read")},
		)
	}
	return list
}

// tryShared makes one of the attempts on a sandbox's memory.
func (l *lab) tryShared(t *testing.T, m mapping, a sharedAttempt) {
	t.Helper()
	d := domains()[a.from]
	in, handed := entry(d, a.level), []wire.File{{Path: m.memory, Flags: "w"}}
	switch way, _, _ := strings.Cut(a.try, " "); way {
	case "inherited":
		in.Open = handed
	case "received":
		in.Send = handed
	}
	argv := append([]string{d.probe}, strings.Fields(strings.ReplaceAll(a.try, "{memory}", m.memory))...)
	answer, err := l.run(wire.Run{Argv: argv, Entry: in, Seconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	said, seen := strings.TrimSpace(answer.Out), denials(answer.Audit)
	ours := slices.DeleteFunc(slices.Clone(seen), func(d denial) bool { return d.Target.Type != policy.TemplateType })
	switch {
	case a.want == "" && answer.Exit != 0, a.want != "" && !strings.HasPrefix(said, "errno "+a.want+" "):
		t.Errorf("%s at %s: %s: exit %d, %s, want %q; %s", a.from, a.level, a.try, answer.Exit, said, a.want, brief(seen))
	case a.denied == (want{}) && len(ours) > 0:
		t.Errorf("%s at %s: %s: %s: %s, want the policy to let it through", a.from, a.level, a.try, said, brief(ours))
	case a.denied != (want{}) && !a.denied.in(seen, a.level, ""):
		t.Errorf("%s at %s: %s: %s, without the denial %s: %s", a.from, a.level, a.try, said, a.denied, brief(seen))
	default:
		t.Logf("%-9s %-15s %-60s %s", a.from, a.level, a.try, said)
	}
}
