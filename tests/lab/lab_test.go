// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels/policy"
	"cloister/tests/clients"
	"cloister/tests/testenv"
)

// labTime bounds the whole lab, with a root to be made. It is less than the stage's limit, so that
// the machine's console is still shown.
const labTime = 28 * time.Minute

// tries is how many machines are used at most: an emulated one may lock up. The runner of the
// stages counts each machine that was lost.
const tries = 3

// scenario is one part of the lab. Each starts what it needs, so that any of them can be run alone
// (-run TestLab/faults), and on another machine when its own is lost.
type scenario struct {
	name string
	run  func(*testing.T, *lab)
}

func scenarios() []scenario {
	// Those between start and end use the two sandboxes of start; what takes minutes is last.
	return []scenario{
		{"start", startShim},
		{"labels", room},
		{"container", container},
		{"process", classProcess},
		{"matrix", matrix},
		{"why", why},
		{"end", endShim},
		{"prove", proves},
		{"modes", modes},
		{"sockets", sockets},
		{"links", links},
		{"clash", clash},
		{"engines", engines},
		{"shared", sharedMemory},
		{"pods", pods},
		{"faults", faults},
		{"translated", translated},
		{"install", install}, // last: the policy is another one after it
	}
}

// lab is one machine and what runs in it.
type lab struct {
	*machine
	mac    mac
	made   *engine // nil until somebody asks for it
	live   []string
	twoPID int // of the second containerd
	// template is the id of the one that sandboxes of the default size start from.
	template string
}

// engine is the machine's containerd, started by whoever asks first.
func (l *lab) engine(t *testing.T) *engine {
	t.Helper()
	if l.made == nil {
		begin := time.Now()
		e, err := startEngine(l.machine, labEnv())
		if err != nil {
			t.Fatal(err)
		}
		l.made = e
		t.Logf("containerd: %.1f s", time.Since(begin).Seconds())
	}
	return l.made
}

// sandboxes makes sure that those of ids run, the first started cold, the second from a template.
func (l *lab) sandboxes(t *testing.T) *engine {
	t.Helper()
	e := l.engine(t)
	for _, id := range ids()[len(l.live):] {
		var flags []string
		if id != ids()[0] {
			flags = []string{"--runtime-config-path", l.buildTemplate(t)}
		}
		begin := time.Now()
		if err := e.run(id, flags...); err != nil {
			t.Fatal(err)
		}
		l.live = append(l.live, id)
		t.Logf("%s: %.1f s", id, time.Since(begin).Seconds())
	}
	return e
}

// TestLab is one machine for all: sandboxes of the built shim under a real containerd, what a
// broken-out process tries on them and on what was made by hand, then hosts on which no guest may
// start. A machine that is lost is begun again with what is still to be done; what has failed stays
// failed.
func TestLab(t *testing.T) {
	m, err := chosenMAC()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chosenPolicy(); err != nil {
		t.Fatal(err)
	}
	if err := check(whole()); err != nil {
		t.Fatal(err)
	}
	// The test's own context ends before its clean-up, which is to stop the machine in good order.
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	t.Cleanup(cancel)
	var next []file
	if m == selinuxMAC {
		if next, err = nextFiles(ctx, t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	hardware, todo := prepare(ctx, t, m, next...), scenarios()
	if m != selinuxMAC {
		todo = otherScenarios(m)
	}
	rounds(ctx, t, m, hardware, todo)
}

// rounds runs scenarios on one machine. If that is lost, another one runs those that are not done.
func rounds(ctx context.Context, t *testing.T, m mac, hardware config, todo []scenario) {
	t.Helper()
	for try := 1; ; try++ {
		lost, left := round(ctx, t, m, hardware, todo)
		switch {
		case lost == "":
			return
		case try == tries:
			t.Fatalf("%d machines were lost, the last: %s", try, lost)
		}
		t.Logf("machine %d was lost, %s is begun again on another one: %s", try, left[0].name, lost)
		todo = left
	}
}

// round runs scenarios on a machine of their own. If the machine was lost, it says why, and which
// scenarios were not done.
func round(ctx context.Context, t *testing.T, kind mac, hardware config, todo []scenario) (lost string, left []scenario) {
	t.Helper()
	m, err := start(ctx, hardware)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.stop(); err != nil {
			t.Errorf("stop the lab: %v", err)
		}
		t.Logf("the machine's console:\n%s", m.said())
	}()
	begin := time.Now()
	err = kind.enforced(m)
	switch {
	case m.lost != "":
		return m.lost, todo
	case err != nil:
		t.Fatal(err)
	}
	t.Logf("boot: %.1f s", time.Since(begin).Seconds())
	if err := kind.prepare(m); err != nil {
		t.Fatal(err)
	}
	l := &lab{machine: m, mac: kind}
	for i, s := range todo {
		t.Run(s.name, func(t *testing.T) {
			m.abandon = skips(t)
			s.run(t, l)
		})
		if m.lost != "" {
			return m.lost, todo[i:]
		}
	}
	return "", nil
}

// skips ends a test whose machine is lost, since its scenario is done again on another one.
func skips(t *testing.T) func(why string) {
	return func(why string) { t.Skipf("the machine is lost: %s", why) }
}

// part runs a part of a scenario as a test of its own. A machine that is lost ends both.
func (m *machine) part(t *testing.T, name string, run func(*testing.T)) {
	t.Helper()
	whole := m.abandon
	t.Run(name, func(t *testing.T) {
		m.abandon = skips(t)
		run(t)
	})
	m.abandon = whole
	if m.lost != "" {
		skips(t)(m.lost)
	}
}

// prepare builds what the machine needs: it enforces from the first load of its policy. More are
// files for its second disk.
func prepare(ctx context.Context, t *testing.T, m mac, more ...file) config {
	t.Helper()
	testenv.NeedRoot(t)
	qemu := testenv.NeedQEMU(t)
	build, guest, busybox := testenv.NeedShim(t), testenv.NeedGuest(t), testenv.NeedBusybox(t)
	for _, name := range []string{"debootstrap", "setfiles", "mke2fs", "go"} {
		testenv.NeedTool(t, name)
	}
	begin := time.Now()
	stage := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
	work := t.TempDir()
	made, err := makeRoot(ctx, testenv.Cache(), labRecipe())
	if err != nil {
		t.Fatal(err)
	}
	stage("root")
	files, err := programs(ctx, work)
	if err != nil {
		t.Fatal(err)
	}
	if m == selinuxMAC {
		files = append(files, compiled(ctx, t, made)...)
		stage("policy")
	}
	engine, err := engineFiles(ctx, m, work, build, guest, busybox)
	if err != nil {
		t.Fatal(err)
	}
	second, err := secondFiles(ctx, m, work, clients.Need(t, clients.Containerd, "containerd"), clients.Need(t, clients.CNI, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	disk, err := makeDisk(ctx, work, slices.Concat(files, engine, second, more))
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := makeInitrd(work, made)
	if err != nil {
		t.Fatal(err)
	}
	stage("disk")
	return config{
		qemu: qemu, kernel: made.kernel(), initrd: initrd, root: made.image(), disk: disk,
		memoryMiB: 4096, console: filepath.Join(work, "console"), security: m.parameters(),
	}
}

// compiled are the policies that SELinux's scenarios use, compiled and asked about every access.
func compiled(ctx context.Context, t *testing.T, made root) []file {
	t.Helper()
	for _, name := range []string{"checkmodule", "semodule_package", "semodule"} {
		testenv.NeedTool(t, name)
	}
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	if kind == fedoraPolicy {
		testenv.NeedTool(t, "make")
		testenv.NeedTool(t, "m4")
	}
	all, err := makePolicies(ctx, testenv.Cache(), made, kind)
	if err != nil {
		t.Fatal(err)
	}
	questions(t, all.enforcing())
	if kind == fedoraPolicy {
		fedoraQuestions(t, all.enforcing())
	}
	return all.files()
}

// unexpected fails for every denial that no attempt provoked: of the shim, of the engine and of the
// sandboxes' own processes.
func unexpected(t *testing.T, m *machine) {
	t.Helper()
	for _, d := range denials(m.seen) {
		ours := strings.HasPrefix(d.Source.Type, "cloister_") || strings.HasPrefix(d.Target.Type, "cloister_")
		probe := strings.HasPrefix(d.Command, "probe-") || strings.HasPrefix(d.Command, "enter-") && d.Source.Type != policy.ShimType
		if ours && !probe && !silent(d) {
			t.Errorf("denied: %s", d.Text)
		}
	}
}
