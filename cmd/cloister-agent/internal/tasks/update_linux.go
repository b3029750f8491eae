// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/cmd/cloister-agent/internal/containers"
	"cloister/sandbox/crun"
)

// cgroupRoot has a container's cgroup under the container's id: the contract of oci's GuestSpec.
const cgroupRoot = "/sys/fs/cgroup"

// Update changes limits. A quota comes to crun with the period that the container has, and a period
// with its quota: crun drops one that comes alone, or takes the other back to its default. The
// answer of crun to a half one is success: without this, docker update --cpu-quota would change
// nothing and say that it did.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*types.Empty, error) {
	id, err := containers.ParseID(r.GetID())
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.GetResources().GetValue(), &resources); err != nil {
		return nil, fmt.Errorf("resources: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	// Zero means "not given" in the runtime specification.
	if c := resources.CPU; c != nil && isZero(c.Quota) != isZero(c.Period) {
		now, err := os.ReadFile(filepath.Join(cgroupRoot, string(id), "cpu.max"))
		if err != nil {
			return nil, fmt.Errorf("limits of container %s: %w", id, err)
		}
		if err := complete(c, string(now)); err != nil {
			return nil, err
		}
	}
	value, err := json.Marshal(&resources)
	if err != nil {
		return nil, err
	}
	resp, err := s.TTRPCTaskService.Update(ctx, &taskapi.UpdateTaskRequest{
		ID: r.GetID(), Resources: &anypb.Any{TypeUrl: r.GetResources().GetTypeUrl(), Value: value},
	})
	return resp, crun.Words(err, "")
}

// isZero tells whether a number is not given.
func isZero[N int64 | uint64](n *N) bool { return n == nil || *n == 0 }

// complete takes what is missing of quota and period from the content of cpu.max: "max 100000" or
// "50000 100000".
func complete(c *specs.LinuxCPU, cpuMax string) error {
	quota, period, _ := strings.Cut(strings.TrimSpace(cpuMax), " ")
	if isZero(c.Period) {
		n, err := strconv.ParseUint(period, 10, 64)
		if err != nil {
			return fmt.Errorf("cpu.max %q: %w", cpuMax, err)
		}
		c.Period = &n
		return nil
	}
	// -1 is no quota, both for crun and in the runtime specification.
	none := int64(-1)
	if c.Quota = &none; quota == "max" {
		return nil
	}
	n, err := strconv.ParseInt(quota, 10, 64)
	if err != nil {
		return fmt.Errorf("cpu.max %q: %w", cpuMax, err)
	}
	c.Quota = &n
	return nil
}
