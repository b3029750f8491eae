// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"path/filepath"
	"time"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
	"cloister/sandbox/template"
	"cloister/sandbox/undo"
	"cloister/vmm"
)

// Config is what a host's administrator sets. A zero field means the default that its comment
// names; docs/configuration.md is generated from these comments.
type Config struct {
	State string `toml:"state"` // folder of records and sockets, empty after a reboot; default /run/cloister
	// folder of the registry and the relabel journal, kept over a reboot; default /var/lib/cloister
	Root      string          `toml:"root"`
	Class     oci.Class       `toml:"class"` // how sandboxes are isolated: vm or process (plain containers); default vm
	Process   Process         `toml:"process"`
	Guest     Guest           `toml:"guest"`
	Machine   Machine         `toml:"machine"`
	Labels    confine.Config  `toml:"labels"`
	Jail      jail.Config     `toml:"jail"`
	Sizing    oci.Sizing      `toml:"sizing"`
	Workloads oci.Options     `toml:"workloads"`
	Timeouts  Timeouts        `toml:"timeouts"`
	Template  template.Config `toml:"template"`
	Debug     Debug           `toml:"debug"`

	Trace undo.Trace `toml:"-"` // for crash tests

	// WantTemplate is told that a sandbox has started cold because there is no template for its
	// machine, where template.mode is auto. It returns at once. nil: nobody builds one.
	WantTemplate func(template.Size) `toml:"-"`

	// Attacker is the program that stands for the sandbox's; see sandbox/standin.
	Attacker string `toml:"-"`
}

// Recovery says where cleanup looks for what dead shims left. The defaults are filled in, since a
// cleanup must find what a sandbox with the same Config made.
func (c Config) Recovery() recovery.Host {
	c = c.WithDefaults()
	return recovery.Host{State: c.State, Root: c.Root, Labels: c.Labels, Trace: c.Trace}
}

// Templates is where the host keeps its templates.
func (c Config) Templates() template.Store {
	return template.NewStore(filepath.Join(c.WithDefaults().Root, "templates"))
}

// LabelRules are the label rules of volumes. Folders are cleaned, since they are compared with the
// kernel's paths, which are clean.
func (c Config) LabelRules() []plan.LabelRule {
	out := make([]plan.LabelRule, len(c.Labels.Mounts))
	for i, m := range c.Labels.Mounts {
		out[i] = plan.LabelRule{Folder: filepath.Clean(m.Source), Sharing: m.Sharing, Label: m.Label}
	}
	return out
}

// Guest says which guest image sandboxes start with.
type Guest struct {
	// Image is the folder of the guest image, with manifest.json; default
	// /usr/share/cloister/guest/small, else .../distro.
	Image string `toml:"image"`
}

// Process says how sandboxes of class process are run.
type Process struct {
	// Runtime is the path of the OCI runtime, crun or runc; default: looked up in PATH, crun first,
	// or runc alone where cgroups are hybrid, which crun refuses.
	Runtime string `toml:"runtime"`
}

// Machine says how machines are made.
type Machine struct {
	// Type is q35 or microvm; default microvm with the small kernel, else q35.
	Type vmm.MachineType `toml:"type"`
	// Accel is auto, kvm or tcg. auto takes KVM where /dev/kvm opens and the CPU has vmx or svm,
	// else tcg (emulation, slow); default auto.
	Accel vmm.Accel `toml:"accel"`
	// NICs is the number of NICs, there from boot: as many networks as a container can have;
	// default 2.
	NICs int `toml:"nics"`
	// HugePages takes the guests' memory from the host's pages of 2 MiB (vm.nr_hugepages). A start
	// fails when too few are free; default false.
	HugePages bool `toml:"hugepages"`
	// FileServer is always or needed. needed leaves the file server (virtiofsd) out where the root
	// file system of a sandbox's first container is on disks and no folder or file of the host is
	// mounted in it; a pod has one always. Containers that join such a sandbox later can have no
	// host folder either. Where its size is a class, it maps a template's memory copy-on-write;
	// with SELinux only under Cloister's own types; default always.
	FileServer plan.FileServer `toml:"file_server"`
	// NestedVirtualization gives guests vmx or svm, so that they can run machines; default false.
	NestedVirtualization bool `toml:"nested_virtualization"`
	// PerformanceCounters gives guests the host's performance counters (PMU), with KVM; default
	// false.
	PerformanceCounters bool `toml:"performance_counters"`
	// QEMU is the path of QEMU; default: looked up in PATH.
	QEMU string `toml:"qemu"`
	// Virtiofsd is the path of virtiofsd; default: where distributions put it.
	Virtiofsd string `toml:"virtiofsd"`
}

// Timeouts limit how long a start waits for the guest.
type Timeouts struct {
	// Boot limits the time from the machine's first instruction to the agent's hello, and from
	// there to its first answer. Only time in which QEMU could run counts: time its threads wait
	// for a CPU is subtracted, up to ten times the limit; default 60s.
	Boot Duration `toml:"boot"`
}

// Debug says whether root may run a shell inside guests.
type Debug struct {
	// Shell is the path of a static binary of the host, such as /usr/bin/busybox, that `cloister
	// debug` runs inside guests, beside the containers. It counts for sandboxes that start after it
	// was set; default empty, which disables `cloister debug`.
	Shell string `toml:"shell"`
}

// Duration is a time.Duration written as 30s or 2m.
type Duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

// WithDefaults fills in the defaults of what sandboxes and cleanup use.
func (c Config) WithDefaults() Config {
	c.State = cmp.Or(c.State, "/run/cloister")
	c.Root = cmp.Or(c.Root, "/var/lib/cloister")
	c.Machine.NICs = cmp.Or(c.Machine.NICs, 2)
	c.Template.Mode = cmp.Or(c.Template.Mode, template.Auto)
	c.Timeouts.Boot.Duration = cmp.Or(c.Timeouts.Boot.Duration, time.Minute)
	return c
}
