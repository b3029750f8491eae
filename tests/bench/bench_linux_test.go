// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/jail"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/tests/bed"
	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// result is what $BENCH_JSON gets.
type result struct {
	ColdOverBarePlusRunc float64            `json:"cold_over_bare_plus_runc"`
	ColdOverRunc         float64            `json:"cold_over_runc"`
	ExecOverRunc         float64            `json:"exec_over_runc"`
	TaskExecOverRunc     float64            `json:"task_exec_over_runc"`  // at the Task API, without a client
	TaskStdioOverRunc    float64            `json:"task_stdio_over_runc"` // 4 KiB to cat and back
	ProcessOverRunc      float64            `json:"process_over_runc"`    // ctr run of a plain container
	TemplateOverCold     map[string]float64 `json:"template_over_cold"`
	TemplateOverRunc     float64            `json:"template_over_runc"`
	PSSMiB               map[string]float64 `json:"pss_mib"`
	CPUToReadyMs         map[string]float64 `json:"cpu_to_ready_ms"` // of QEMU, until the container runs
	// CPUMs is the CPU time of a start, cold and from a template, by phase and program.
	CPUMs            map[string]map[string]Spread `json:"cpu_ms"`
	PSSTemplateMiB   map[string]float64           `json:"pss_template_mib"`
	PSSTemplate10MiB float64                      `json:"pss_template_10_mib"` // of each of ten
	PSSCowMiB        map[string]float64           `json:"pss_cow_mib"`         // one sandbox on disks, which maps the template's memory
	PSSCow10MiB      map[string]float64           `json:"pss_cow_10_mib"`      // of each of ten
	GuestMiB         float64                      `json:"guest_mib"`
	PhasesMs         map[string]Spread            `json:"phases_ms"`
	IOOverRunc       map[string]float64           `json:"io_over_runc"`
	ConcurrentMs     map[string]Spread            `json:"concurrent_ms"`
	// Times are what the ratios are made of, in milliseconds.
	Times map[string]Spread `json:"times_ms"`
}

// bench measures on one bed, so that both runtimes meet the same machine at the same time.
type bench struct {
	*bed.Bed
	runc    bed.Bed
	runsc   []string // options that ask for gVisor's; nil where it has not been built
	runs    int
	samples map[string]Samples
	phases  map[string]Samples
	result  result
}

func (b *bench) add(name string, d time.Duration) { add(b.samples, name, d) }

func add(to map[string]Samples, name string, d time.Duration) {
	to[name] = to[name].With(d)
}

func (b *bench) median(name string) float64 { return b.samples[name].Median() }

func TestBench(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("BENCH_RUNS"))
	if err != nil || runs < 1 {
		t.Skip("takes minutes: say how often in BENCH_RUNS, as make bench does")
	}
	b := &bench{
		Bed: bed.New(t, host.Options{Cloister: startsFromTemplates, Config: bed.Disks(t)}), runs: runs,
		samples: map[string]Samples{}, phases: map[string]Samples{},
	}
	b.runc = *b.Bed
	b.runc.Runtime = bed.Runc
	// By runc's shim: gVisor's own wants to lower its OOM score, which not every host lets it.
	if name := filepath.Join(clients.Dir(clients.GVisor), "runsc"); exec.CommandContext(t.Context(), name, "--version").Run() == nil {
		b.runsc = []string{"--runc-binary", name}
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"cold", b.cold},
		{"inside", b.inside},
		{"tasks", b.tasks},
		{"process", b.plain},
		{"concurrent", b.concurrent},
		{"template", b.templates},
		{"cpu", b.whereCPU},
		{"disks", b.onDisks},
	} {
		if only := strings.Fields(os.Getenv("BENCH_PART")); len(only) == 0 || slices.Contains(only, part.name) {
			part.run(t)
		}
	}
	r := &b.result
	r.ColdOverBarePlusRunc = Ratio(b.median("cold"), b.median("bare")+b.median("cold runc"))
	r.ColdOverRunc = Ratio(b.median("cold"), b.median("cold runc"))
	r.ExecOverRunc = Ratio(b.median("exec"), b.median("exec runc"))
	r.TaskExecOverRunc = Ratio(b.median("task api exec"), b.median("task api exec runc"))
	r.TaskStdioOverRunc = Ratio(b.median("task api stdio"), b.median("task api stdio runc"))
	r.ProcessOverRunc = Ratio(b.median("plain"), b.median("plain runc"))
	r.PhasesMs, r.Times = spreads(b.phases), spreads(b.samples)
	r.print(t)
	if name := os.Getenv("BENCH_JSON"); name != "" {
		data, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func spreads(samples map[string]Samples) map[string]Spread {
	out := map[string]Spread{}
	for name, s := range samples {
		out[name] = s.Spread()
	}
	return out
}

// took runs ctr, which must succeed, and measures it.
func took(t *testing.T, b *bed.Bed, args ...string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := b.Ctr(ctx, args...)
	cmd.Stdout = io.Discard
	begin := time.Now()
	if r := b.Finish(ctx, t, cmd); r.Code != 0 {
		t.Fatalf("ctr %s = %+v", strings.Join(args, " "), r)
	}
	return time.Since(begin)
}

// cold measures whole lives of containers, and a machine that only says hello. They take turns; the
// first round warms caches.
func (b *bench) cold(t *testing.T) {
	for i := range b.runs + 1 {
		id := fmt.Sprint("cold", i)
		ours, theirs, bare := took(t, b.Bed, b.Args(id, []string{"--rm"}, "true")...),
			took(t, &b.runc, b.runc.Args(id+"r", []string{"--rm"}, "true")...), b.bare(t)
		var gvisors time.Duration
		if b.runsc != nil {
			gvisors = took(t, &b.runc, b.runc.Args(id+"g", append([]string{"--rm"}, b.runsc...), "true")...)
		}
		if i == 0 {
			continue
		}
		b.add("cold", ours)
		b.add("cold runc", theirs)
		b.add("bare", bare)
		if b.runsc != nil {
			b.add("cold runsc", gvisors)
		}
	}
}

// bare starts QEMU with the guest's kernel and image, in a cgroup beside those of the sandboxes. It
// measures until the agent's first byte.
func (b *bench) bare(t *testing.T) time.Duration {
	t.Helper()
	group, err := cgroup.At("/" + b.Namespace + "/bare")
	if err == nil {
		err = group.Create(cgroup.Limits{})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := group.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	image, err := guestimage.Open(testenv.NeedGuest(t))
	if err != nil {
		t.Fatal(err)
	}
	accel, _, err := qemu.DetectAccel("", qemu.Host{})
	if err != nil {
		t.Fatal(err)
	}
	m := machine(t, image, accel)
	begin := time.Now()
	p, err := qemu.Start(t.Context(), m, qemu.Options{Starter: jail.Jail{Group: group}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill() //nolint:errcheck // it is gone
	if err := p.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Agent().SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Agent().Read(make([]byte, 1)); err != nil {
		t.Fatalf("the agent's first byte: %v\n%s", err, p.ConsoleTail())
	}
	return time.Since(begin)
}

// inside measures what happens in a container that runs.
func (b *bench) inside(t *testing.T) {
	volume := filepath.Join(b.Dir, "volume")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	options := []string{"--mount", "type=bind,src=" + volume + ",dst=/v,options=rbind:rw"}
	b.Start(t, "in", options)
	b.runc.Start(t, "inrunc", options)
	if b.runsc != nil {
		b.runc.Start(t, "inrunsc", append(b.runsc, options...))
	}
	for i := range b.runs + 1 {
		ours := took(t, b.Bed, "task", "exec", "--exec-id", fmt.Sprint("e", i), "in", "true")
		theirs := took(t, &b.runc, "task", "exec", "--exec-id", fmt.Sprint("e", i), "inrunc", "true")
		if i > 0 {
			b.add("exec", ours)
			b.add("exec runc", theirs)
			if b.runsc != nil {
				b.add("exec runsc", took(t, &b.runc, "task", "exec", "--exec-id", fmt.Sprint("e", i), "inrunsc", "true"))
			}
		}
	}
	b.memory(t, "in")
	work := map[string]string{
		"stdout":      "dd if=/dev/zero bs=1M count=256 2>/dev/null",
		"small_files": "mkdir /v/d; i=0; while [ $i -lt 10000 ]; do echo x >/v/d/$i; i=$((i+1)); done; rm -r /v/d",
		"sequential":  "dd if=/dev/zero of=/v/x bs=1M count=1024 conv=fsync 2>/dev/null; rm /v/x",
	}
	b.result.IOOverRunc = map[string]float64{}
	for _, name := range slices.Sorted(maps.Keys(work)) {
		for i := range max(1, b.runs/4) {
			id := fmt.Sprintf("%s%d", name, i)
			b.add(name, took(t, b.Bed, "task", "exec", "--exec-id", id, "in", "sh", "-c", work[name]))
			b.add(name+" runc", took(t, &b.runc, "task", "exec", "--exec-id", id, "inrunc", "sh", "-c", work[name]))
		}
		b.result.IOOverRunc[name] = Ratio(b.median(name), b.median(name+" runc"))
	}
	b.Remove(t, "in")
	b.runc.Remove(t, "inrunc")
	if b.runsc != nil {
		b.runc.Remove(t, "inrunsc")
	}
}

// memory notes what a sandbox that does nothing takes.
func (b *bench) memory(t *testing.T, id string) {
	t.Helper()
	b.result.PSSMiB = b.pss(t, id)
	used, err := strconv.ParseFloat(b.record(t, id).Facts["guest_used_mib"], 64)
	if err != nil {
		t.Fatal(err)
	}
	b.result.GuestMiB = used
}

// pss is the proportional set size of each process of a sandbox, and their sum, in MiB.
// "translated" is the part of QEMU's that holds the code that it has translated.
func (b *bench) pss(t *testing.T, id string) map[string]float64 {
	t.Helper()
	out, total := map[string]float64{}, 0.0
	processes := map[string]int{"qemu": b.Marked(t, id, "qemu-system"), "shim": b.Shim(t, id)}
	if b.record(t, id).Facts["file_server"] != "none" {
		processes["virtiofsd"] = b.Marked(t, id, "virtiofsd")
	}
	for name, pid := range processes {
		all, code := b.mapped(t, pid)
		out[name] = round(all)
		total += all
		if name == "qemu" {
			out["translated"] = round(code)
		}
	}
	out["total"] = round(total)
	return out
}

// mapped is a process's proportional set size, and what of it can be written and executed, in MiB.
func (b *bench) mapped(t *testing.T, pid int) (all, code float64) {
	t.Helper()
	data, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/smaps", pid)))
	if err != nil {
		t.Fatal(err)
	}
	mode := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if !strings.HasSuffix(fields[0], ":") {
			mode = fields[1] // the first line of a mapping: addresses, mode
			continue
		}
		if fields[0] != "Pss:" {
			continue
		}
		kib, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		all += kib / 1024
		if mode == "rwxp" {
			code += kib / 1024
		}
	}
	return all, code
}

// record is a running sandbox's, as cloister inspect shows it.
func (b *bench) record(t *testing.T, id string) statedir.Record {
	t.Helper()
	data, err := os.ReadFile(b.Place.Path(filepath.Join("/run/cloister", b.Namespace, id, "record.json")))
	if err != nil {
		t.Fatal(err)
	}
	var r statedir.Record
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// concurrent measures starts at once, each start's phases when it is alone, and stops.
func (b *bench) concurrent(t *testing.T) {
	b.result.ConcurrentMs = map[string]Spread{}
	for _, count := range []int{1, 4, 8, 30} {
		var all Samples
		rounds := max(1, b.runs/count)
		for round := range rounds {
			begin := time.Now()
			var group sync.WaitGroup
			for i := range count {
				group.Go(func() {
					if r := b.Within(t, 5*time.Minute,
						b.Args(fmt.Sprintf("n%dr%di%d", count, round, i), []string{"--detach"}, "sleep", "1000")...); r.Code != 0 {
						t.Errorf("%d at once: %+v", count, r)
					}
				})
			}
			group.Wait()
			all = all.With(time.Since(begin))
			for i := range count {
				b.stop(t, fmt.Sprintf("n%dr%di%d", count, round, i), count == 1)
			}
		}
		b.result.ConcurrentMs[strconv.Itoa(count)] = all.Spread()
	}
}

// stop ends a container and notes the phases of its start and its stop.
func (b *bench) stop(t *testing.T, id string, note bool) {
	t.Helper()
	if note {
		for _, p := range b.record(t, id).Phases {
			add(b.phases, "start: "+p.Name, time.Duration(p.DurationMs)*time.Millisecond)
		}
	}
	begin := time.Now()
	b.Must(t, "task", "kill", "--signal", "KILL", id)
	b.AwaitStatus(t, id, "STOPPED")
	killed := time.Now()
	b.Within(t, time.Minute, "task", "delete", id)
	if note {
		add(b.phases, "stop: kill", killed.Sub(begin))
		add(b.phases, "stop: delete", time.Since(killed))
	}
	b.Must(t, "containers", "delete", id)
}

func (r *result) print(t *testing.T) {
	t.Helper()
	var out strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&out, "%-32s %v\n", name, value) }
	line("cold_over_bare_plus_runc", r.ColdOverBarePlusRunc)
	line("cold_over_runc", r.ColdOverRunc)
	line("exec_over_runc", r.ExecOverRunc)
	line("task_exec_over_runc", r.TaskExecOverRunc)
	line("task_stdio_over_runc", r.TaskStdioOverRunc)
	line("process_over_runc", r.ProcessOverRunc)
	for _, name := range slices.Sorted(maps.Keys(r.CPUToReadyMs)) {
		line("cpu_to_ready_ms "+name, r.CPUToReadyMs[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.TemplateOverCold)) {
		line("template_over_cold "+name, r.TemplateOverCold[name])
	}
	line("template_over_runc", r.TemplateOverRunc)
	line("guest_mib", r.GuestMiB)
	for _, name := range slices.Sorted(maps.Keys(r.PSSTemplateMiB)) {
		line("pss_template_mib "+name, r.PSSTemplateMiB[name])
	}
	line("pss_template_10_mib", r.PSSTemplate10MiB)
	for _, name := range slices.Sorted(maps.Keys(r.PSSCowMiB)) {
		line("pss_cow_mib "+name, r.PSSCowMiB[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.PSSCow10MiB)) {
		line("pss_cow_10_mib "+name, r.PSSCow10MiB[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.PSSMiB)) {
		line("pss_mib "+name, r.PSSMiB[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.IOOverRunc)) {
		line("io_over_runc "+name, r.IOOverRunc[name])
	}
	for _, kind := range slices.Sorted(maps.Keys(r.CPUMs)) {
		for _, name := range largest(r.CPUMs[kind]) {
			line("cpu_ms "+kind+" "+name, r.CPUMs[kind][name])
		}
	}
	for title, all := range map[string]map[string]Spread{"ms": r.Times, "concurrent_ms": r.ConcurrentMs, "phases_ms": r.PhasesMs} {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			line(title+" "+name, all[name])
		}
	}
	t.Logf("medians (quartiles)\n%s", out.String())
}

// machine is the bare one: what a sandbox's has, without share and network.
func machine(t *testing.T, image *guestimage.Image, accel vmm.Accel) vmm.Machine {
	t.Helper()
	m, err := plan.Machine("bare", plan.Host{
		Accel: accel, Kernel: image.Kernel(), Initrd: image.Initrd(), Cmdline: image.Manifest.Cmdline,
		Small: image.Manifest.Flavour == guestimage.Small,
	}, "", oci.Size{MemoryMiB: 608, CPUs: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Share = nil
	return m
}
