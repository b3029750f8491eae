// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/statedir"
	"cloister/tests/testenv"
)

// startsFromTemplates is the configuration with which each start can be of either kind.
const startsFromTemplates = `[machine]
file_server = "needed"
[template]
mode = "manual"
[workloads]
annotations = ["io.cloister.start"]
`

// templates measures starts from a template, cold ones and runc's, which take turns. The template
// is built here, so that all other parts start cold.
func (b *bench) templates(t *testing.T) {
	b.buildTemplate(t)
	for i := range b.runs + 1 {
		for _, kind := range []string{"template", "cold"} {
			id := fmt.Sprint(kind, i)
			options := []string{"--detach"}
			if kind == "cold" {
				options = append(options, "--annotation", "io.cloister.start=cold")
			}
			wall := took(t, b.Bed, b.Args(id, options, "sleep", "1000")...)
			record := b.record(t, id)
			if from := record.Facts["start"]; !strings.HasPrefix(from, kind) {
				t.Fatalf("%s was started from %q", id, from)
			}
			cpu := b.cpuTime(t, record)
			if kind == "template" {
				b.result.PSSTemplateMiB = b.pss(t, id)
			}
			b.stop(t, id, false)
			if i == 0 { // warms caches
				continue
			}
			b.add("start, "+kind, wall)
			b.add("start, "+kind+", CPU time of QEMU", cpu)
			for _, p := range record.Phases {
				add(b.phases, kind+" start: "+p.Name, time.Duration(p.DurationMs)*time.Millisecond)
			}
		}
		id := fmt.Sprint("runc", i)
		wall := took(t, &b.runc, b.runc.Args(id, []string{"--detach"}, "sleep", "1000")...)
		b.runc.Remove(t, id)
		if i > 0 {
			b.add("start, runc", wall)
		}
	}
	b.result.TemplateOverRunc = Ratio(b.median("start, template"), b.median("start, runc"))
	b.result.TemplateOverCold = map[string]float64{
		"wall": Ratio(b.median("start, template"), b.median("start, cold")),
		"cpu":  Ratio(b.median("start, template, CPU time of QEMU"), b.median("start, cold, CPU time of QEMU")),
	}
	b.result.CPUToReadyMs = map[string]float64{
		"template": b.median("start, template, CPU time of QEMU"),
		"cold":     b.median("start, cold, CPU time of QEMU"),
	}
	for i := range many {
		took(t, b.Bed, b.Args(fmt.Sprint("many", i), []string{"--detach"}, "sleep", "1000")...)
	}
	for i := range many {
		b.result.PSSTemplate10MiB += b.pss(t, fmt.Sprint("many", i))["total"] / float64(many)
	}
	b.result.PSSTemplate10MiB = round(b.result.PSSTemplate10MiB)
	for i := range many {
		b.stop(t, fmt.Sprint("many", i), false)
	}
}

// many is how many sandboxes share the host where that counts.
const many = 10

func (b *bench) buildTemplate(t *testing.T) {
	t.Helper()
	cloister := filepath.Join(testenv.Build(t), "cloister")
	b.Place.Run(t, cloister, "--config", filepath.Join(b.Place.Dir, "cloister.toml"), "template", "build", "--missing")
}

// onDisks measures sandboxes whose files are all on disks, and which map the template's memory. It
// comes last: from here on containers are on disks.
func (b *bench) onDisks(t *testing.T) {
	b.buildTemplate(t)
	b.UseDisks(t)
	for i := range many {
		id := fmt.Sprint("disks", i)
		wall := took(t, b.Bed, b.Args(id, []string{"--detach"}, "sleep", "1000")...)
		record := b.record(t, id)
		if memory := record.Facts["memory"]; !strings.HasPrefix(memory, "copy-on-write") {
			t.Fatalf("the memory of %s is %q", id, memory)
		}
		if i == 0 {
			b.result.PSSCowMiB = b.pss(t, id)
			continue
		}
		b.add("start, copy-on-write", wall)
		b.add("start, copy-on-write, CPU time of QEMU", b.cpuTime(t, record))
		for _, p := range record.Phases {
			add(b.phases, "copy-on-write start: "+p.Name, time.Duration(p.DurationMs)*time.Millisecond)
		}
	}
	sums := map[string]float64{}
	for i := range many {
		for name, mib := range b.pss(t, fmt.Sprint("disks", i)) {
			sums[name] += mib / float64(many)
		}
	}
	b.result.PSSCow10MiB = map[string]float64{}
	for name, mib := range sums {
		b.result.PSSCow10MiB[name] = round(mib)
	}
	for i := range many {
		b.stop(t, fmt.Sprint("disks", i), false)
	}
}

// cpuTime is what QEMU has used of the CPU so far.
func (b *bench) cpuTime(t *testing.T, r statedir.Record) time.Duration {
	t.Helper()
	for _, e := range r.Effects {
		if e.Kind != statedir.KindProcess || e.Path != "qemu" {
			continue
		}
		data, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/stat", e.Process.PID)))
		if err != nil {
			t.Fatal(err)
		}
		const utime, stime, tick = 11, 12, time.Second / 100 // behind the name; USER_HZ
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		user, userErr := strconv.Atoi(fields[utime])
		system, systemErr := strconv.Atoi(fields[stime])
		if userErr != nil || systemErr != nil {
			t.Fatalf("stat of QEMU: %s", data)
		}
		return time.Duration(user+system) * tick
	}
	t.Fatal("the record has no QEMU")
	return 0
}
