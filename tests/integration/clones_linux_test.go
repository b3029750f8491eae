// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// debug runs a shell script in a sandbox's guest, outside of its container.
func (b *templates) debug(t *testing.T, id, script string) string {
	t.Helper()
	return b.cloister(t, "debug", b.Namespace+"/"+id, "sh", "-c", script)
}

// TestClonesHaveOwnAddresses: the template's guest has no link with an address that the kernel has
// drawn, dummy0 among them, and each clone draws its own for the links that it makes.
func TestClonesHaveOwnAddresses(t *testing.T) {
	b := newTemplates(t)
	seen := map[string]string{} // whose an address is
	for _, id := range []string{"a", "b"} {
		b.Start(t, id, []string{"--cap-add", "CAP_NET_ADMIN"})
		if from := b.started(t, id); !strings.HasPrefix(from, "template ") {
			t.Errorf("%s was started from %q, want a template", id, from)
		}
		const look = "cd /sys/class/net && grep . */address /dev/null"
		if links := b.debug(t, id, look); links != "lo/address:00:00:00:00:00:00\n" {
			t.Errorf("links of %s: %s, want loopback alone", id, links)
		}
		r := b.Exec(t, id, "e", "sh", "-c", "ip link add dummy0 type dummy && ip link add bridge0 type bridge && "+look)
		if r.Code != 0 {
			t.Fatalf("%s makes links: %+v", id, r)
		}
		for line := range strings.Lines(r.Stdout) {
			name, mac, _ := strings.Cut(strings.TrimSpace(line), "/address:")
			if seen[mac] != "" && name != "lo" {
				t.Errorf("%s of %s has the address %s, which %s has as well", name, id, mac, seen[mac])
			}
			seen[mac] = name + " of " + id
		}
	}
	if len(seen) != 5 {
		t.Errorf("addresses: %v, want loopback's and four others", seen)
	}
}

// TestCloneHasNoMachineID: neither template nor clone has anything from which a program would take
// the machine's id, which clones had in common. Programs that need one make it of random bytes or
// of the boot id, and those differ: see TestClonesDiffer.
func TestCloneHasNoMachineID(t *testing.T) {
	b := newTemplates(t)
	b.Start(t, "c", nil)
	if from := b.started(t, "c"); !strings.HasPrefix(from, "template ") {
		t.Errorf("started from %q, want a template", from)
	}
	// What systemd, D-Bus and glibc look at.
	const script = `for f in /etc/machine-id /var/lib/dbus/machine-id /etc/hostid /sys/class/dmi/id/product_uuid \
	/sys/hypervisor/uuid /sys/firmware/devicetree/base/vm,uuid /sys/firmware/qemu_fw_cfg; do
	[ ! -e $f ] || echo $f
done
grep -o 'systemd.machine_id[^ ]*' /proc/cmdline
tr '\0' '\n' </proc/1/environ | grep container_uuid
true`
	if found := b.debug(t, "c", script); found != "" {
		t.Errorf("the guest has ids of its machine: %s", found)
	}
	if r := b.Exec(t, "c", "e", "sh", "-c", script); r.Stdout != "" || r.Code != 0 {
		t.Errorf("the container has ids of its machine: %+v", r)
	}
}

// clockSource is what a sandbox's kernel takes its time from.
func (b *templates) clockSource(t *testing.T, id string) string {
	t.Helper()
	r := b.Exec(t, id, "source", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if r.Stdout == "" || r.Code != 0 {
		t.Fatalf("clock source of %s: %+v", id, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// TestClonesClockRuns: a clone's kernel takes its time from what a cold one's does, and its
// monotonic clock runs as fast as the host's.
func TestClonesClockRuns(t *testing.T) {
	b := newTemplates(t)
	programs, samples := b.program(t, "ticks"), b.folder(t, "samples", nil)
	b.Start(t, "cold", []string{"--annotation", "io.cloister.start=cold"})
	if from := b.started(t, "cold"); from != "cold" {
		t.Errorf("started from %q, want cold", from)
	}
	want := b.clockSource(t, "cold")
	b.Remove(t, "cold")
	b.Start(t, "c", []string{
		"--mount", "type=bind,src=" + programs + ",dst=/programs,options=rbind:ro",
		"--mount", "type=bind,src=" + samples + ",dst=/samples,options=rbind:rw",
	})
	if from := b.started(t, "c"); !strings.HasPrefix(from, "template ") {
		t.Errorf("started from %q, want a template", from)
	}
	if got := b.clockSource(t, "c"); got != want {
		t.Errorf("the clock source is %s, want a cold start's, %s", got, want)
	}
	if r := b.Exec(t, "c", "e", "/programs/ticks", "/samples"); r.Code != 0 {
		t.Fatalf("ticks = %+v", r)
	}
	files, err := filepath.Glob(filepath.Join(samples, "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("samples: %v, %v", files, err)
	}
	var all []tick
	for _, name := range files {
		all = append(all, sample(t, name))
		if i := len(all) - 1; i > 0 && all[i].guest <= all[i-1].guest {
			t.Errorf("the monotonic clock went from %s to %s", all[i-1].guest, all[i].guest)
		}
	}
	const most = 0.1
	if d := drift(all); math.Abs(d) > most {
		t.Errorf("the guest's monotonic clock is slower than the host's by %.1f%%, want at most %g%%: %v", 100*d, 100*most, all)
	} else {
		t.Logf("clock source %s, slower than the host's by %.2f%%", want, 100*d)
	}
}

// tick is what the guest's clock showed, and the host's a moment later.
type tick struct {
	guest time.Duration
	host  time.Time
}

// drift is by what part the guest's clock is slower than the host's. A file comes a moment after
// the clock was read, and much later where somebody waits for a CPU: the least of such delays
// counts, in the first third of the samples and in the last.
func drift(all []tick) float64 {
	least := func(some []tick) tick {
		return slices.MinFunc(some, func(a, b tick) int {
			return cmp.Compare(a.host.Sub(all[0].host)-a.guest, b.host.Sub(all[0].host)-b.guest)
		})
	}
	a, b := least(all[:len(all)/3]), least(all[2*len(all)/3:])
	host := b.host.Sub(a.host)
	return float64(host-(b.guest-a.guest)) / float64(host)
}

// sample reads a file that ticks has written.
func sample(t *testing.T, name string) tick {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return tick{time.Duration(ns), info.ModTime()}
}

// TestUnservedStartsCold: what a template cannot serve starts cold beside one that would fit, and
// inspect says why. A sysctl is no such thing.
func TestUnservedStartsCold(t *testing.T) {
	b := newTemplates(t)
	ids := []string{"--uidmap", "0:65536:1000", "--gidmap", "0:65536:1000"}
	for name, test := range map[string]struct {
		options       []string
		start, reason string
	}{
		"plain":     {nil, "template ", ""},
		"annotated": {[]string{"--annotation", "io.cloister.start=cold"}, "cold", "the annotation io.cloister.start asks for it"},
		"q35":       {[]string{"--annotation", "io.cloister.machine=q35"}, "cold", "its machine type is q35"},
		"users":     {ids, "cold", "its user namespace is made while the guest boots"},
		"larger":    {[]string{"--memory-limit", strconv.Itoa(700 << 20)}, "cold", "no template for this machine"},
	} {
		b.Start(t, name, test.options)
		if f := b.facts(t, name); !strings.HasPrefix(f.Start, test.start) || !strings.Contains(f.ColdBecause, test.reason) ||
			(f.ColdBecause == "") != (test.reason == "") {
			t.Errorf("%s: inspect says %+v, want start %q because of %q", name, f, test.start, test.reason)
		}
		b.Remove(t, name)
	}
	before := b.coldLines(t)
	r := b.withSpec(t, "sysctl", func(spec, _ map[string]any) {
		spec["linux"].(map[string]any)["sysctl"] = map[string]any{"net.ipv4.ip_default_ttl": "77"}
	}, "cat", "/proc/sys/net/ipv4/ip_default_ttl")
	if r.Stdout != "77\n" || r.Code != 0 {
		t.Errorf("a sysctl = %+v, want 77", r)
	}
	if cold := b.coldLines(t)[len(before):]; len(cold) != 0 {
		t.Errorf("with a sysctl, the log says %q, want a start from the template", cold)
	}
}
