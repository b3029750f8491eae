// SPDX-License-Identifier: Apache-2.0

package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Role says what a container is to its sandbox.
type Role string

// The roles.
const (
	Single  Role = "single"    // a container with a sandbox of its own
	Sandbox Role = "sandbox"   // the first (pause) container of a pod
	Member  Role = "container" // a further container of a pod
)

// Workload is a checked configuration: everything in it can be honoured. Its fields are plain
// values for the host's side; GuestSpec gives the guest's. It is not changed after parsing but by
// ReadOnlyBelow. A copy that was stored as JSON has no spec and can give no configuration.
type Workload struct {
	Class     Class
	Role      Role
	SandboxID string // the pod's sandbox; empty for Single
	// PodNamespace is the pod's namespace in Kubernetes; empty for Single.
	PodNamespace string
	Group        string // annotation io.containerd.runc.v2.group
	Hostname     string
	Domainname   string
	Terminal     bool
	Args         []string // of the process; empty only for Sandbox
	Rootfs       Rootfs
	Mounts       []Mount // in the order of the configuration
	Hooks        Hooks
	Namespaces   Namespaces
	Resources    Resources
	CgroupsPath  string // host path, cgroupfs or systemd form, as given
	Devices      []Device
	Sysctls      Sysctls
	Labels       Labels
	Annotations  map[string]string // all, as given
	Settings     Settings
	Pod          PodSize
	Ignored      []Problem // fields without meaning here; to be logged
	// Mapped are the fields of class process that map the owners of mounts, which not every OCI
	// runtime does.
	Mapped []string `json:",omitempty"`

	kept bool // the engine is CRI-O, which keeps the namespaces of a pod in files
	spec *specs.Spec
}

// Rootfs is the root file system.
type Rootfs struct {
	Path     string // as given: absolute, or relative to the bundle
	ReadOnly bool
}

// Labels are the SELinux labels the engine asked for, unparsed; empty: none. What they mean is
// decided in package labels.
type Labels struct {
	Process string
	Mount   string
	Disable bool   `json:",omitempty"` // the engine was told to give no label
	Profile string `json:",omitempty"` // AppArmor's, of class process; empty also for one that engines give unasked
}

// Hooks are those that run on the host, in the order of the configuration.
type Hooks struct {
	Prestart      []Hook
	CreateRuntime []Hook
	Poststart     []Hook
	Poststop      []Hook
}

// Hook is one host program.
type Hook struct {
	Path           string // absolute
	Args           []string
	Env            []string
	TimeoutSeconds int // 0: none
}

// Sysctls of the guest, split by who can set them.
type Sysctls struct {
	Network map[string]string // net.*: set in the guest's network namespace
	Kernel  map[string]string // of the guest's kernel as a whole, and a pod's of its ipc namespace; never for a Member
}

// PodSize is what the engine says of a whole pod by annotation. Zero: not said. Memory is in bytes,
// quota and period in microseconds.
type PodSize struct {
	MemoryBytes int64
	CPUQuota    int64
	CPUPeriod   uint64
	CPUShares   uint64
}

// OOMScore is the oom_score_adj for the machine: a single container's own. A pod's machine has 0:
// its pause container asks for protection that a guest's memory must not have.
func (w *Workload) OOMScore() int {
	if w.Role != Single || w.spec == nil || w.spec.Process == nil || w.spec.Process.OOMScoreAdj == nil {
		return 0
	}
	return *w.spec.Process.OOMScoreAdj
}
