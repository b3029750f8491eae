// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/sandbox/guestapi"
)

// Container is everything that the sandbox does for one container. Nothing about the container is
// decided elsewhere. Indices (Mount, Device) are into the workload's lists, so that the descriptors
// that were opened for them can be found without a name.
type Container struct { //nolint:recvcheck // only its building changes it
	ID      string
	Pause   bool // a pod's first container: nothing of it runs, and the rest is empty
	Rootfs  Rootfs
	Volumes []Volume
	Copies  []Copy
	Sockets []HostSocket
	Devices []BlockDevice

	workload *oci.Workload
}

// Volume is a folder or file of the host that the guest's file server shows. Containers whose
// volumes have one Key have one volume, and see one file system.
type Volume struct {
	Mount       int // which of the workload's mounts
	Destination string
	Key         VolumeKey
	ReadOnly    bool // in this container; on the host as well while all that have it are read-only
	IDs         oci.IDMap
	Treatment   Treatment
	// Watched is whether what the host changes in it raises events in the guest.
	Watched bool
}

// Copy is a file whose bytes go to the guest. The engine writes to it while the container runs. It
// is a copy, because a shared file would have to be labelled for the guest, and the engine needs it
// with its own label.
type Copy struct {
	Mount       int
	Destination string
	Purpose     oci.Purpose
	Path        string // relative to the container's folder in the guest
}

// HostSocket is a listening socket of the host that the guest's processes may connect to. The guest
// gets no file of the host for it: a socket's other end is in another kernel.
type HostSocket struct {
	Mount       int
	Destination string
	Name        string // of the socket, without links
	Token       string // names the streams of its connections
	Path        string // relative to the container's folder in the guest
	Mode        uint32
	UID, GID    uint32 // in the container
}

// BlockDevice is a block device of the host that becomes a disk of the machine.
type BlockDevice struct {
	Device int // which of the workload's devices
	Path   string
	Disk   Disk
}

// Request is what a container's plan is made from. All of it was found once, by package content,
// before anything was decided.
type Request struct {
	ID       string
	Workload *oci.Workload
	Rootfs   []Mount         // as the engine sent them
	Blocks   map[string]bool // which of their sources are block devices
	// Sources has what was found for each of the workload's mounts; what is no bind mount, or is
	// the pod's shared memory, has a zero value.
	Sources []Source
	// Nodes has the host's node of each of the workload's block devices; other devices have an
	// empty string.
	Nodes []string
	// Tokens has a random name for each of the workload's mounts.
	Tokens []string
	Rules  Rules
}

// nobody is the kernel's default for owners without an id (DEFAULT_OVERFLOWUID).
const nobody = 65534

// NewContainer decides what is done for a container, or says with one error everything that cannot
// be honoured. Errors are errdefs.ErrInvalidArgument or ErrNotImplemented and name the field of
// config.json. There is no half plan: a container with one mount that cannot be honoured is not
// started without it.
func NewContainer(r Request) (Container, error) {
	c := Container{ID: r.ID, Pause: r.Workload.Role == oci.Sandbox, workload: r.Workload}
	if c.Pause {
		return c, nil
	}
	var errs []error
	var err error
	if c.Rootfs, err = NewRootfs(r.Rootfs, r.Blocks); err != nil {
		errs = append(errs, err)
	}
	for i, m := range r.Workload.Mounts {
		if m.Kind != oci.BindMount || m.Purpose == oci.SharedMemory {
			continue
		}
		if s := r.Sources[i]; s.Unmappable != "" {
			errs = append(errs, fmt.Errorf("mounts[%d].uidMappings, of %q for %q: %s: %w", i, s.Name,
				m.Destination, s.Unmappable, errdefs.ErrInvalidArgument))
		} else if err := c.addMount(r, i, m); err != nil {
			errs = append(errs, fmt.Errorf("mounts[%d].source = %q, for %q: %w", i, s.Name, m.Destination, err))
		}
	}
	for i, d := range r.Workload.Devices {
		if d.Kind == oci.HostBlock {
			c.Devices = append(c.Devices, BlockDevice{Device: i, Path: d.Path, Disk: Disk{Path: r.Nodes[i], ReadOnly: d.ReadOnly}})
		}
	}
	return c, errors.Join(errs...)
}

// addMount decides what becomes of one bind mount: a copy, a socket or a volume. Names in the guest
// are made of the mount's index, never of its destination, which the workload chooses.
func (c *Container) addMount(r Request, i int, m oci.Mount) error {
	s := r.Sources[i]
	if problem := s.problem(m, r.Rules.Sockets); problem != "" {
		return fmt.Errorf("%s: %w", problem, errdefs.ErrInvalidArgument)
	}
	n := strconv.Itoa(i)
	switch {
	case m.Purpose.Copied():
		c.Copies = append(c.Copies, Copy{Mount: i, Destination: m.Destination, Purpose: m.Purpose, Path: path.Join("files", n)})
		return nil
	case s.Kind == Socket:
		socket := HostSocket{
			Mount: i, Destination: m.Destination, Name: s.Real, Token: r.Tokens[i], Path: path.Join("sockets", n),
			Mode: s.Mode, UID: s.UID, GID: s.GID,
		}
		if !m.IDs.IsZero() {
			var ok bool
			if socket.UID, socket.GID, ok = m.IDs.Host(s.UID, s.GID); !ok {
				socket.UID, socket.GID = nobody, nobody
			}
		}
		c.Sockets = append(c.Sockets, socket)
		return nil
	}
	t, err := treatment(r.Rules.Labels, m, s)
	if err != nil {
		return err
	}
	c.Volumes = append(c.Volumes, Volume{
		Mount: i, Destination: m.Destination, Key: newVolumeKey(m, s), ReadOnly: m.ReadOnly, IDs: m.IDs, Treatment: t,
		Watched: !m.ReadOnly && below(s.Real, r.Rules.Watch),
	})
	return nil
}

// WatchedTarget is where the guest has a watched volume, relative to the container's folder: agent
// and container are to have it from one mount. Each mount of virtiofs in the guest has inodes of
// its own: what the agent touches in another one raises no event in the container's.
func (v Volume) WatchedTarget() string { return path.Join("watched", strconv.Itoa(v.Mount)) }

// guestPath is where the guest's runtime finds the volume, which has that name in the share.
func (v Volume) guestPath(id, name string) string {
	if v.Watched {
		return path.Join(guestapi.Bundle(id), v.WatchedTarget())
	}
	return path.Join(guestapi.Share, guestapi.ShareVolume(name))
}

// Guest is what a container's spec needs to know of the guest that it goes to. It is known only
// when the container is added, after the plan was made.
type Guest struct {
	Pid        int            // of the machine
	Namespaces oci.Namespaces // that the machine was started with
	MemoryMax  int64
	Hostname   string // the host's
	Joins      uint32 // process of the guest whose namespaces it joins; 0: none but the pod's
	// First is true for the container that the machine was started for, while no other has joined
	// it.
	First bool
	// Volumes has the name in the share of each of the container's Volumes, by the index into the
	// workload's mounts.
	Volumes map[int]string
	// Numbers has the guest's number of each of the container's Devices, by the index into the
	// workload's devices.
	Numbers map[int]oci.DeviceNumber
}

// Spec gives the config.json for the guest's runtime. It is pure, too. A volume or device that
// Guest does not name is a mistake of the caller's.
func (c Container) Spec(g Guest) ([]byte, error) {
	w := c.workload
	in := oci.GuestInput{
		ID: c.ID, Sources: map[int]string{}, Below: map[int]bool{}, MemoryMax: g.MemoryMax, Devices: g.Numbers,
		SandboxPid: g.Pid, SandboxNamespaces: g.Namespaces, IDs: g.Namespaces.IDs, Hostname: g.Hostname,
	}
	if !g.Namespaces.IDs.IsZero() {
		in.User = guestapi.Namespace("user")
	}
	if w.Role == oci.Member {
		in.IPC, in.UTS, in.PID = guestapi.Namespace("ipc"), guestapi.Namespace("uts"), guestapi.Namespace("pid")
	}
	// A pid of the guest: on the host all containers of a guest have the machine's pid, so the
	// guest has said which process is meant.
	if g.Joins != 0 {
		in.PID = fmt.Sprintf("/proc/%d/ns/pid", g.Joins)
	}
	if g.Joins != 0 && w.Role == oci.Single {
		in.IPC, in.UTS = fmt.Sprintf("/proc/%d/ns/ipc", g.Joins), fmt.Sprintf("/proc/%d/ns/uts", g.Joins)
	}
	if len(w.Sysctls.Network) > 0 && !g.First {
		in.Network = guestapi.Namespace("net") // the first one's were set with the guest; the guest's runtime sets further ones there
	}
	for i, m := range w.Mounts {
		if m.Kind == oci.BindMount && m.Purpose == oci.SharedMemory {
			in.Sources[i] = "/dev/shm"
		}
	}
	for _, f := range c.Copies {
		in.Sources[f.Mount] = path.Join(guestapi.Bundle(c.ID), f.Path)
	}
	for _, s := range c.Sockets {
		in.Sources[s.Mount] = path.Join(guestapi.Bundle(c.ID), s.Path)
	}
	for _, v := range c.Volumes {
		in.Sources[v.Mount] = v.guestPath(c.ID, g.Volumes[v.Mount])
		in.Below[v.Mount] = v.Key.HostReadOnly
	}
	return w.GuestSpec(in)
}
