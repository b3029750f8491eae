// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/sandbox/background"
	"cloister/sandbox/template"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// templates is a bed whose sandboxes start from a template, which is built.
type templates struct {
	*bed
	store string
}

func newTemplates(t *testing.T) *templates {
	t.Helper()
	b := withTemplates(t, "manual")
	b.cloister(t, "template", "build")
	b.keep(t)
	return b
}

// withTemplates is a bed with that template.mode, and without a template. config is more of
// containerd's configuration.
func withTemplates(t *testing.T, mode string, config ...string) *templates {
	t.Helper()
	if !isCloister() {
		t.Skip("only a machine starts from a template")
	}
	if os.Getenv("CLOISTER_GUEST") == "distro" {
		t.Skip("templates exist only for the small kernel")
	}
	b := newBed(t, host.Options{Config: strings.Join(config, "\n"), Cloister: fmt.Sprintf(
		"[machine]\nfile_server = \"needed\"\n[template]\nmode = %q\n[debug]\nshell = \"/usr/bin/busybox\"\n"+
			"[workloads]\nannotations = [\"io.cloister.start\", \"io.cloister.machine\"]\n", mode,
	)})
	return &templates{b, filepath.Join(b.Place.Dir, "cloister", "templates")}
}

// cloister runs the host tool in the bed's place.
func (b *templates) cloister(t *testing.T, args ...string) string {
	t.Helper()
	program := filepath.Join(testenv.Build(t), "cloister")
	return b.Place.Run(t, program, append([]string{"--config", filepath.Join(b.Place.Dir, "cloister.toml")}, args...)...)
}

// facts are what inspect says of a running sandbox.
type facts struct {
	Start       string `json:"start"`
	ColdBecause string `json:"cold_because"`
	Memory      string `json:"memory"`
	Files       string `json:"file_server"`
	MemoryMiB   int    `json:"memory_mib"`
	BootedMiB   int    `json:"booted_mib"`
	CPUs        int    `json:"cpus"`
}

// started says what a running sandbox was started from.
func (b *templates) started(t *testing.T, id string) string {
	t.Helper()
	return b.facts(t, id).Start
}

func (b *templates) facts(t *testing.T, id string) facts {
	t.Helper()
	var box struct {
		Facts facts `json:"facts"`
	}
	text := b.cloister(t, "inspect", b.Namespace+"/"+id)
	if err := json.Unmarshal([]byte(text), &box); err != nil {
		t.Fatalf("inspect: %v\n%s", err, text)
	}
	return box.Facts
}

// agentSeed prints the 16 bytes at AT_RANDOM (25) of process 1, the agent. The kernel draws them
// when it executes a program. Go seeds itself from them, and puts the first output of its generator
// in their place. So clones have the same ones unless the agent executes itself after a reseed.
const agentSeed = "dd if=/proc/1/mem bs=1 count=16 2>/dev/null " +
	"skip=$(od -An -v -tu8 -w16 /proc/1/auxv | awk '$1 == 25 { print $2 }') | od -An -v -tx1"

// own are values that no two guests may have in common: the agent's seed, and what programs of the
// container draw.
func (b *templates) own(t *testing.T, id string) map[string]string {
	t.Helper()
	values := map[string]string{"seed of the agent": b.cloister(t, "debug", b.Namespace+"/"+id, "sh", "-c", agentSeed)}
	for what, script := range map[string]string{
		"boot id":      "cat /proc/sys/kernel/random/boot_id",
		"UUID":         "cat /proc/sys/kernel/random/uuid",
		"random bytes": "head -c 16 /dev/urandom | od -An -tx1",
		"hash of Go":   "/programs/seeds hash",
		"TLS key":      "/programs/seeds key",
	} {
		r := b.Exec(t, id, "e", "sh", "-c", script)
		if r.Code != 0 {
			t.Fatalf("%s of %s = %+v", what, id, r)
		}
		values[what] = r.Stdout
	}
	if n := len(strings.Fields(values["seed of the agent"])); n != 16 {
		t.Fatalf("seed of %s's agent = %q, want 16 bytes", id, values["seed of the agent"])
	}
	return values
}

// TestClonesDiffer starts sandboxes from one template, two at once: what must be each guest's own
// is. CLONES says how many pairs; one is enough for each run of all tests.
func TestClonesDiffer(t *testing.T) {
	b := newTemplates(t)
	dir := b.program(t, "seeds")
	pairs := 1
	if text := os.Getenv("CLONES"); text != "" {
		var err error
		if pairs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{} // whose a value is
	for pair := range pairs {
		ids := []string{fmt.Sprintf("a%d", pair), fmt.Sprintf("b%d", pair)}
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				b.Start(t, id, []string{"--mount", "type=bind,src=" + dir + ",dst=/programs,options=rbind:ro"})
			})
		}
		wg.Wait()
		for _, id := range ids {
			if from := b.started(t, id); !strings.HasPrefix(from, "template ") {
				t.Errorf("%s was started from %q, want a template", id, from)
			}
			for what, value := range b.own(t, id) {
				got := what + " " + strings.TrimSpace(value)
				if value == "" {
					t.Errorf("%s has no %s", id, what)
				}
				if seen[got] != "" {
					t.Errorf("%s and %s have the same %s", id, seen[got], got)
				}
				seen[got] = id
			}
			b.Remove(t, id)
		}
	}
	t.Logf("%d values of %d clones", len(seen), 2*pairs)
}

// clockError is how far the guest's clock is from the host's: the guest writes its time into a
// volume, and the host's clock gives the file its mtime at that moment. The least of some tries
// counts, because either side may have to wait for a CPU in between.
func (b *templates) clockError(t *testing.T, id, file string) time.Duration {
	t.Helper()
	least := time.Hour
	for i := range 5 {
		r := b.Exec(t, id, "clock"+strconv.Itoa(i), "sh", "-c", "echo | ts %.s > /volume/clock")
		text, err := os.ReadFile(file)
		if err != nil || r.Code != 0 {
			t.Fatalf("guest's clock: %v, %+v", err, r)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		seconds, fraction, _ := strings.Cut(strings.TrimSpace(string(text)), ".")
		s, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		us, err := strconv.ParseInt(strings.TrimSpace(fraction), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Unix(s, 1000*us).Sub(info.ModTime()); d.Abs() < least.Abs() {
			least = d
		}
	}
	return least
}

// TestCloneKeepsTime compares the clock of a guest from a template, which stood still from the save
// to the start, with the host's.
func TestCloneKeepsTime(t *testing.T) {
	b := newTemplates(t)
	volume := filepath.Join(b.Place.Dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Start(t, "c", []string{"--mount", "type=bind,src=" + volume + ",dst=/volume,options=rbind:rw"})
	if from := b.started(t, "c"); !strings.HasPrefix(from, "template ") {
		t.Errorf("started from %q, want a template", from)
	}
	const most = 50 * time.Millisecond
	if d := b.clockError(t, "c", filepath.Join(volume, "clock")); d.Abs() > most {
		t.Errorf("the guest's clock is off by %s, want at most %s", d, most)
	} else {
		t.Logf("the guest's clock is off by %s", d)
	}
}

// TestCloneMemoryIsChargedToItsSandbox: what is copied from a template counts in the sandbox's
// cgroup, and so in its pod's, as it does when the guest itself writes it.
func TestCloneMemoryIsChargedToItsSandbox(t *testing.T) {
	b := newTemplates(t)
	list, err := template.NewStore(b.store).List()
	if err != nil || len(list) != 1 {
		t.Fatalf("templates: %+v, %v, want one", list, err)
	}
	b.Start(t, "c", nil)
	if from := b.started(t, "c"); !strings.HasPrefix(from, "template ") {
		t.Errorf("started from %q, want a template", from)
	}
	if have, want := b.sharedMemory(t, b.machine(t, "c")), list[0].Manifest.Memory.Bytes; have < want {
		t.Errorf("QEMU's cgroup is charged with %d bytes of shared memory, want at least the %d of the template", have, want)
	}
}

// TestTemplateServesSizes starts sandboxes of several sizes from two templates, one for each number
// of CPUs: guest and host hold each to its own size, as they do a cold one.
func TestTemplateServesSizes(t *testing.T) {
	b := withTemplates(t, "manual")
	for _, cpus := range []int{1, 2} {
		b.cloister(t, "template", "build", "--memory", "300", "--cpus", strconv.Itoa(cpus))
	}
	b.keep(t)
	list, err := template.NewStore(b.store).List()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[int]string{} // of the templates, by CPUs
	for _, e := range list {
		ids[e.Manifest.Key.CPUs] = e.ID
	}
	const reserve = 96
	var seen []sizes
	for i, test := range []struct {
		mib, cpus int
		cold      bool
	}{
		{300, 1, false},
		{311, 1, false}, // of the same class
		{320, 2, false},
		{300, 1, true},
	} {
		id := "c" + strconv.Itoa(i)
		quota := float64(test.cpus) - 0.5
		options := append([]string{"--memory-limit", fmt.Sprint(test.mib << 20), "--cpus", fmt.Sprint(quota)}, cgroups...)
		want := facts{Start: "template " + ids[test.cpus], MemoryMiB: test.mib + reserve, BootedMiB: 320 + reserve, CPUs: test.cpus}
		if test.cold {
			options = append(options, "--annotation", "io.cloister.start=cold")
			want.Start, want.BootedMiB = "cold", want.MemoryMiB
		}
		b.Start(t, id, options)
		have := b.facts(t, id)
		want.Memory, want.Files = have.Memory, have.Files // see TestCopyOnWrite
		want.ColdBecause = have.ColdBecause               // see TestUnservedStartsCold
		if have != want {
			t.Errorf("%s: inspect says %+v, want %+v", id, have, want)
		}
		s := b.sizes(t, id)
		if s.limit != int64(test.mib)<<20 || s.cpus != test.cpus || s.quota != fmt.Sprintf("%d 100000", 100000*test.cpus-50000) {
			t.Errorf("%s has a limit of %d bytes, %d CPUs and the quota %q, want %d MiB, %d CPUs and half a CPU less",
				id, s.limit, s.cpus, s.quota, test.mib, test.cpus)
		}
		if mib := s.total >> 20; mib < int64(test.mib) || mib > int64(test.mib+reserve) {
			t.Errorf("%s: the guest has %d MiB, want the container's %d and a part of the reserve", id, mib, test.mib)
		}
		seen = append(seen, s)
		b.Remove(t, id)
	}
	warm, cold := seen[0], seen[3]
	if warm.host != cold.host {
		t.Errorf("the host's limit is %d bytes, want that of a cold sandbox, %d", warm.host, cold.host)
	}
	// The page descriptors of the larger machine are the guest's own.
	if d := warm.total - cold.total; d > 0 || d < -1<<20 {
		t.Errorf("the guest has %d bytes, want those of a cold one, %d, or at most 1 MiB less", warm.total, cold.total)
	}
	t.Logf("%+v", seen)
}

// sizes are what a sandbox is held to: its container, its guest and, on the host, QEMU.
type sizes struct {
	limit int64
	cpus  int
	quota string
	total int64 // of the guest
	host  int64 // limit of QEMU's cgroup
}

func (b *templates) sizes(t *testing.T, id string) (s sizes) {
	t.Helper()
	r := b.Exec(t, id, "sizes", "sh", "-c",
		"cat /sys/fs/cgroup/memory.max; nproc; awk '/MemTotal/ { print 1024 * $2 }' /proc/meminfo; cat /sys/fs/cgroup/cpu.max")
	if n, err := fmt.Sscan(r.Stdout, &s.limit, &s.cpus, &s.total); n != 3 || r.Code != 0 {
		t.Fatalf("%s: %v, %+v", id, err, r)
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	s.quota = lines[len(lines)-1]
	for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
		if text, err := os.ReadFile(filepath.Join(b.memoryGroup(t, b.machine(t, id)), name)); err == nil {
			if s.host, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// machine is the pid of a sandbox's QEMU, which ctr shows as its task's.
func (b *templates) machine(t *testing.T, id string) int {
	t.Helper()
	for line := range strings.Lines(b.Must(t, "task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			pid, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no task %s", id)
	return 0
}

// memoryGroup is the folder of a process's memory cgroup.
func (b *templates) memoryGroup(t *testing.T, pid int) string {
	t.Helper()
	groups, err := os.ReadFile(b.Place.Path("/proc/" + strconv.Itoa(pid) + "/cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if mount, found := map[string]string{"memory": "/sys/fs/cgroup/memory", "": "/sys/fs/cgroup"}[part[1]]; found {
			dir := filepath.Join(mount, part[2])
			if _, err := os.Stat(filepath.Join(dir, "memory.stat")); err == nil {
				return dir
			}
		}
	}
	t.Fatalf("process %d has no memory cgroup: %s", pid, groups)
	return ""
}

// sharedMemory is what the memory cgroup of a process is charged with of tmpfs and memfds, in
// bytes.
func (b *templates) sharedMemory(t *testing.T, pid int) int64 {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join(b.memoryGroup(t, pid), "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(entry, "shmem "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("cgroup of process %d counts no shared memory: %s", pid, stat)
	return 0
}

// TestUnfitTemplateStartsCold spoils the template in several ways. Each start succeeds, is cold and
// leaves one line in the log that says why.
func TestUnfitTemplateStartsCold(t *testing.T) {
	b := newTemplates(t)
	// A template's id has 32 hexadecimal digits.
	dirs, err := filepath.Glob(filepath.Join(b.store, "????????????????????????????????"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("templates: %v, %v, want one", dirs, err)
	}
	id := filepath.Base(dirs[0])
	spoil := func(name string, change func(path string) error) {
		path := filepath.Join(dirs[0], name)
		if err := errors.Join(os.Chmod(path, 0o600), change(path)); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		name, says string
		prepare    func()
	}{
		{"disabled", "templates are disabled", func() { b.cloister(t, "template", "disable") }},
		{"of another QEMU", "the template was made by 1.2.3", func() {
			b.cloister(t, "template", "enable")
			spoil("manifest.json", func(path string) error {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				m := map[string]any{}
				if err := json.Unmarshal(text, &m); err != nil {
					return err
				}
				m["qemuVersion"] = "1.2.3"
				if text, err = json.Marshal(m); err != nil {
					return err
				}
				return os.WriteFile(path, text, 0o400)
			})
		}},
		{"cut short", "template is damaged", func() {
			b.verify(t, id, "good", 0)
			spoil("memory", func(path string) error { return os.Truncate(path, 1<<20) })
			b.verify(t, id, "damaged", 3)
		}},
		{"failed twice", "the template has failed 2 times", func() {}},
	} {
		step.prepare()
		name := "c" + strconv.Itoa(i)
		before := b.coldLines(t)
		b.Start(t, name, nil)
		if f := b.facts(t, name); f.Start != "cold" || !strings.Contains(f.ColdBecause, step.says) {
			t.Errorf("%s: inspect says %+v, want cold because of %q", step.name, f, step.says)
		}
		lines := b.coldLines(t)[len(before):]
		if len(lines) != 1 || !strings.Contains(lines[0], step.says) {
			t.Errorf("%s: the log says %q, want one line with %q", step.name, lines, step.says)
		}
		b.Remove(t, name)
	}
	if list := b.cloister(t, "template", "list"); !strings.Contains(list, "set aside") && !strings.Contains(list, "damaged") {
		t.Errorf("template list = %q, want %s set aside", list, id)
	}
	b.cloister(t, "template", "build")
	b.Start(t, "again", nil)
	if from := b.started(t, "again"); from != "template "+id {
		t.Errorf("after a new build: started from %q, want template %s", from, id)
	}
}

// verify wants that verb's word and exit status for the only template.
func (b *templates) verify(t *testing.T, id, word string, status int) {
	t.Helper()
	program := filepath.Join(testenv.Build(t), "cloister")
	config := filepath.Join(b.Place.Dir, "cloister.toml")
	out, err := b.Place.Command(t.Context(), program, "--config", config, "template", "verify").Output()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = exit.ExitCode(), nil
	}
	if !strings.HasPrefix(string(out), id+": ") || !strings.Contains(string(out), word) || code != status || err != nil {
		t.Errorf("template verify = %q, exit %d, %v, want %s: %s, exit %d", out, code, err, id, word, status)
	}
}

// TestOtherBoardStartsCold: a q35 has no templates. It starts cold, with one line in the log, and
// has none built.
func TestOtherBoardStartsCold(t *testing.T) {
	b := withTemplates(t, "auto")
	b.keep(t)
	b.Start(t, "c", []string{"--annotation", "io.cloister.machine=q35"})
	if from := b.started(t, "c"); from != "cold" {
		t.Errorf("started from %q, want cold", from)
	}
	const says = "its machine type is q35, and templates exist only for microvm"
	if lines := b.coldLines(t); len(lines) != 1 || !strings.Contains(lines[0], says) {
		t.Errorf("the log says %q, want one line with %q", lines, says)
	}
	if pids := b.builders(t); len(pids) != 0 {
		t.Errorf("builders = %d, want none", pids)
	}
	b.Remove(t, "c")
}

// TestTenantCannotSetTemplateAside: a start that fails for what its workload asks for fails cold as
// well, and is not counted against the template, which other tenants use.
func TestTenantCannotSetTemplateAside(t *testing.T) {
	b := newTemplates(t)
	for i := range 2 {
		r := b.withSpec(t, "bad"+strconv.Itoa(i), func(spec, _ map[string]any) {
			linux := spec["linux"].(map[string]any) //nolint:forcetypeassert // a spec has it
			linux["sysctl"] = map[string]any{"net.ipv4.ip_forward": "neither"}
		}, "true")
		if r.Code == 0 {
			t.Errorf("a sysctl that the kernel refuses was taken: %+v", r)
		}
	}
	if list, err := template.NewStore(b.store).List(); err != nil || len(list) != 1 || list[0].Failures != 0 {
		t.Errorf("templates: %+v, %v, want one that has not failed", list, err)
	}
	b.Start(t, "c", nil)
	if from := b.started(t, "c"); !strings.HasPrefix(from, "template ") {
		t.Errorf("started from %q, want a template", from)
	}
}

// coldLines are the lines of the log that say why a sandbox starts cold.
func (b *templates) coldLines(t *testing.T) (lines []string) {
	t.Helper()
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "the sandbox starts cold") {
			lines = append(lines, line)
		}
	}
	return lines
}

// builders are the pids, in the place, of processes that build templates in the background.
func (b *templates) builders(t *testing.T) (pids []int) {
	t.Helper()
	for pid, line := range b.Place.Processes(t) {
		if strings.HasPrefix(line, background.BuilderName+" ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestTemplateIsBuiltInTheBackground: two sandboxes that start cold at once have one template built
// beside them, by a builder that is killed the first time, and then by the next. The one after
// starts from it.
func TestTemplateIsBuiltInTheBackground(t *testing.T) {
	b := withTemplates(t, "auto")
	b.cloister(t, "template", "build")
	b.cloister(t, "template", "gc", "--all")
	b.keep(t) // an empty store
	b.Start(t, "first", nil)
	var pids []int
	awaited(t, func() string {
		if pids = b.builders(t); len(pids) != 1 {
			return fmt.Sprintf("builders = %d, want one", pids)
		}
		if drafts, err := filepath.Glob(filepath.Join(b.store, "draft-*")); err != nil || len(drafts) != 1 {
			return fmt.Sprintf("drafts = %q, %v, want one", drafts, err)
		}
		return ""
	})
	group, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/cgroup", b.machine(t, "first"))))
	if err != nil {
		t.Fatal(err)
	}
	if own, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/cgroup", pids[0]))); err != nil || string(own) == string(group) {
		t.Errorf("the builder's cgroup: %s, %v, want another than its sandbox's", own, err)
	}
	b.Place.Kill(t, pids[0])
	b.Remove(t, "first")
	awaited(t, func() string {
		if left, err := os.ReadDir(b.store); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.IsDir() }) {
			return fmt.Sprintf("left of a killed builder: %v, %v", left, err)
		}
		return ""
	})
	b.NothingLeft(t, b.before)

	var wg sync.WaitGroup
	for _, id := range []string{"second", "third"} {
		wg.Go(func() { b.Start(t, id, nil) })
	}
	wg.Wait()
	var list []template.Entry
	awaited(t, func() string {
		if list, err = template.NewStore(b.store).List(); err != nil || len(list) != 1 || len(b.builders(t)) != 0 {
			return fmt.Sprintf("templates = %+v, %v, want one, and no builder", list, err)
		}
		return ""
	})
	for _, id := range []string{"second", "third"} {
		if from := b.started(t, id); from != "cold" {
			t.Errorf("%s was started from %q, want cold", id, from)
		}
		b.Remove(t, id)
	}
	b.Start(t, "fourth", nil)
	if from := b.started(t, "fourth"); from != "template "+list[0].ID {
		t.Errorf("started from %q, want template %s", from, list[0].ID)
	}
	b.Remove(t, "fourth")
	b.cloister(t, "template", "gc", "--all")
}

// awaited fails the test where a condition is not met in time. A builder gets a tenth of the time
// that others get.
func awaited(t *testing.T, missing func() string) {
	t.Helper()
	if left := host.Await(3*host.Patience, missing); left != "" {
		t.Fatal(left)
	}
}
