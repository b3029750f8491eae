// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/oci"
	"cloister/sandbox/cgroup"
)

// resourcesType names OCI resources as JSON in an Any: containerd's core/runtime, typeurl.
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

// Update changes a container's limits; resources is the OCI document as JSON. It changes the
// container's cgroup in the guest: the machine's memory and CPUs are fixed at its start, and a
// limit above them is refused. An update of a pause container is checked and changes nothing.
func (r *Runtime) Update(ctx context.Context, id string, resources []byte) error {
	c, err := r.container(id)
	if err != nil {
		return err
	}
	update, err := oci.ParseResources(resources, r.options())
	if err != nil || c.pause {
		return err
	}
	m, err := r.running()
	if err != nil {
		return err
	}
	spec, err := update.GuestResources(m.ContainerMemory)
	if err != nil {
		return err
	}
	_, err = m.Guest.Task().Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{TypeUrl: resourcesType, Value: spec}})
	return err
}

// Stats gives a container's cgroup v2 metrics, as the guest measures them. The host alone knows
// what is read from disks: its count of the whole machine is that of the container that the machine
// was made for.
func (r *Runtime) Stats(ctx context.Context, id string) (*metrics.Metrics, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	out := &metrics.Metrics{}
	if c.pause {
		return out, nil
	}
	m, err := r.running()
	if err != nil {
		return nil, err
	}
	resp, err := m.Guest.Task().Stats(ctx, &taskapi.StatsRequest{ID: id})
	if err != nil {
		return nil, err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(resp.GetStats().GetValue(), out); err != nil {
		return nil, fmt.Errorf("stats of the guest: %w", err)
	}
	if c.id != m.ID || m.DiskIO == nil {
		return out, nil
	}
	out.Io, err = ioStat(m.DiskIO)
	return out, err
}

// ioStat is the host's count in the form of cgroup v2's io.stat, by the host's disks.
func ioStat(read func() ([]cgroup.DiskIO, error)) (*metrics.IOStat, error) {
	disks, err := read()
	if err != nil {
		return nil, fmt.Errorf("stats of the machine's disks: %w", err)
	}
	out := &metrics.IOStat{}
	for _, d := range disks {
		out.Usage = append(out.Usage, &metrics.IOEntry{
			Major: d.Major, Minor: d.Minor, Rbytes: d.ReadBytes, Wbytes: d.WriteBytes, Rios: d.Reads, Wios: d.Writes,
		})
	}
	return out, nil
}
