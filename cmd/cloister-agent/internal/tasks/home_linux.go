// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"fmt"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/cmd/cloister-agent/internal/home"
	"cloister/cmd/cloister-agent/internal/steps"
	"cloister/sandbox/crun"
)

// withHome returns the process of an exec with the HOME of its user in the container. The root is
// that of the container's first process: the exec has none yet. The file is opened below that root,
// since links in it are the container's.
func (s *Service) withHome(ctx context.Context, id string, spec *anypb.Any) (*anypb.Any, error) {
	state, err := s.State(ctx, &taskapi.StateRequest{ID: id})
	if err != nil {
		return nil, crun.Words(err, "")
	}
	root := fmt.Sprintf("/proc/%d/root", state.GetPid())
	value, err := home.InProcess(spec.GetValue(), root,
		func(root, rel string) ([]byte, error) { return steps.ReadFile(root, rel, home.MaxPasswd) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return &anypb.Any{TypeUrl: spec.GetTypeUrl(), Value: value}, nil
}
