// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"errors"
	"maps"
	"path"
	"slices"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/vmm"
)

// Sandbox is everything that the host does for a sandbox of class vm before its first container is
// added. Nothing about it is decided elsewhere, except what the host draws: the level, the uid and
// the pids.
type Sandbox struct {
	Size      oci.Size
	Machine   vmm.Machine
	Identity  Identity
	Cgroup    Cgroup
	OOMScore  int    // least oom_score_adj of QEMU and the file server
	Network   string // path of the network namespace; empty: a new one
	Configure Configure
}

// Identity is what the host's registry is asked for, and the labels that follow.
type Identity struct {
	Name   string // NAMESPACE/ID, unique on the host
	Tenant string // whose files the sandbox's volumes are
	// Wish is what configuration, annotations and engine ask for.
	Wish labels.Wish
	// Level is the level to reserve; nil: the registry draws a pair.
	Level *labels.Level
	// Types are the sets of types in the order in which the host's policy is asked for them. The
	// first one that works is used.
	Types []labels.Types
}

// Cgroup is the cgroup that QEMU and the file server run in.
type Cgroup struct {
	Leaf   string
	Limits cgroup.Limits
}

// Configure describes the guest to its agent; network, time and entropy are sent apart from it.
type Configure struct {
	Hostname string
	Sysctls  map[string]string
	ShareTag string
}

// Facts are what configuration and host contribute to a plan. Package host finds them.
type Facts struct {
	Host       Host
	Board      vmm.MachineType // configured; empty: the one that suits the guest's kernel
	Sizing     oci.Sizing
	NICs       [][4]byte // random, one for each NIC
	Hostname   string    // the host's
	GuestPorts string    // local ports that are the guest's, for net.ipv4.ip_local_port_range
	Devices    bool      // the cgroup limits what devices can be opened
	Wish       labels.Wish
}

// SandboxRequest says which sandbox is planned.
type SandboxRequest struct {
	Namespace, ID string
	Workload      *oci.Workload // of the first container
	Facts         Facts
	Saved         bool // it becomes a template: its size is a class
	NoShare       bool // it has no file server; see FileServer
}

// NewSandbox decides what is done for a sandbox, or says why a wish cannot be honoured. Nothing has
// happened on the host by then, so an error needs no cleanup.
func NewSandbox(r SandboxRequest) (Sandbox, error) {
	w, f := r.Workload, r.Facts
	size, sizeErr := w.Size(f.Sizing)
	leaf, leafErr := cgroup.Leaf(w.CgroupsPath, r.ID)
	if err := errors.Join(sizeErr, leafErr); err != nil {
		return Sandbox{}, err
	}
	if r.Saved {
		size = Class(size)
	}
	// The guest's user namespace is made while it boots.
	f.Host.Cmdline = slices.Concat(f.Host.Cmdline, Users(w.Namespaces.IDs).Parameters())
	m, err := Machine(r.ID, f.Host, cmp.Or(vmm.MachineType(w.Settings.Machine), f.Board), size, NICs(f.NICs))
	if err != nil {
		return Sandbox{}, err
	}
	s := Sandbox{
		Size: size, Machine: m,
		Identity: newIdentity(r, f.Host.Accel == vmm.AccelKVM),
		Cgroup:   Cgroup{Leaf: leaf, Limits: hostLimits(w.HostResources(), m)},
		OOMScore: w.OOMScore(), Network: w.Namespaces.Network.Path,
		Configure: Configure{Hostname: cmp.Or(w.Hostname, f.Hostname), Sysctls: guestSysctls(w.Sysctls, f.GuestPorts), ShareTag: ShareTag},
	}
	if r.NoShare {
		s.Machine.Share, s.Configure.ShareTag = nil, ""
	}
	if f.Devices {
		s.Cgroup.Limits.Devices = openDevices()
	}
	return s, nil
}

// newIdentity is the wanted identity. The pods of one Kubernetes namespace are one tenant,
// elsewhere all sandboxes of one namespace of the engine are. A tenant may get the pair again that
// its own kept volumes carry, and nobody else may.
func newIdentity(r SandboxRequest, kvm bool) Identity {
	wish := r.Facts.Wish
	return Identity{
		Name: r.Namespace + "/" + r.ID, Tenant: path.Join(r.Namespace, r.Workload.PodNamespace),
		Wish: wish, Level: wish.Level(), Types: wish.Candidates(kvm),
	}
}

// guestSysctls are those of the whole guest. The workload's own settings count over the port range.
func guestSysctls(s oci.Sysctls, ports string) map[string]string {
	all := map[string]string{"net.ipv4.ip_local_port_range": ports}
	maps.Copy(all, s.Network)
	maps.Copy(all, s.Kernel)
	return all
}
