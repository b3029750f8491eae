// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"path/filepath"
	"time"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
	"cloister/sandbox/undo"
	"cloister/vmm"
)

// Config is what a host's administrator says. Its zero value is the documented
// default of every field, but for Labels.MAC, which has none.
type Config struct {
	State     string         `toml:"state"` // run folder, gone after a reboot; default /run/cloister
	Root      string         `toml:"root"`  // what outlives a reboot; default /var/lib/cloister
	Guest     Guest          `toml:"guest"`
	Machine   Machine        `toml:"machine"`
	Labels    confine.Config `toml:"labels"`
	Jail      jail.Config    `toml:"jail"`
	Sizing    oci.Sizing     `toml:"sizing"`
	Workloads oci.Options    `toml:"workloads"`
	Timeouts  Timeouts       `toml:"timeouts"`
	Debug     Debug          `toml:"debug"`

	Trace undo.Trace `toml:"-"` // for crash tests
}

// Recovery says where cleanup looks for what dead shims left.
func (c Config) Recovery() recovery.Host {
	c = c.withDefaults()
	return recovery.Host{State: c.State, Root: c.Root, Labels: c.Labels, Trace: c.Trace}
}

// Guest says which guest image sandboxes start with.
type Guest struct {
	Image string `toml:"image"` // folder with manifest.json; default /usr/share/cloister/guest/small, else .../distro
}

// Machine says how machines are made.
type Machine struct {
	Type                 vmm.MachineType `toml:"type"`                  // q35 or microvm; default microvm with a small kernel, else q35
	Accel                vmm.Accel       `toml:"accel"`                 // auto, kvm or tcg; default auto
	NICs                 int             `toml:"nics"`                  // network cards, there from boot; default 2: one network more may be connected
	HugePages            bool            `toml:"hugepages"`             // guests' memory is of the host's pages of 2 MiB (vm.nr_hugepages), and a start fails when there are too few
	NestedVirtualization bool            `toml:"nested_virtualization"` // guests have vmx or svm and can run machines themselves; default false
	PerformanceCounters  bool            `toml:"performance_counters"`  // guests have the host's performance counters (PMU), with kvm; default false
	QEMU                 string          `toml:"qemu"`                  // default: looked up in PATH
	Virtiofsd            string          `toml:"virtiofsd"`             // default: where distributions put it
}

// rules are the label rules of volumes.
func rules(l confine.Config) []plan.LabelRule {
	out := make([]plan.LabelRule, len(l.Mounts))
	for i, m := range l.Mounts {
		out[i] = plan.LabelRule{Folder: filepath.Clean(m.Source), Sharing: m.Sharing, Label: m.Label}
	}
	return out
}

// Timeouts bound what waits for somebody else.
type Timeouts struct {
	// Boot bounds the time from the machine's first instruction to the agent's hello, and from there to its first answer;
	// default 60s. Time in which the host has no processor for the machine does not count, up to ten times as long.
	Boot Duration `toml:"boot"`
}

// Debug says whether somebody may look into running guests.
type Debug struct {
	// Shell is a static program of the host, as /usr/bin/busybox, that `cloister debug` runs in a guest beside its containers.
	// Default none: nobody may. It holds for sandboxes that are started after it was set.
	Shell string `toml:"shell"`
}

// Duration is a time.Duration written as 30s or 2m.
type Duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

func (c Config) withDefaults() Config {
	c.State = cmp.Or(c.State, "/run/cloister")
	c.Root = cmp.Or(c.Root, "/var/lib/cloister")
	c.Machine.NICs = cmp.Or(c.Machine.NICs, 2)
	c.Timeouts.Boot.Duration = cmp.Or(c.Timeouts.Boot.Duration, time.Minute)
	return c
}
