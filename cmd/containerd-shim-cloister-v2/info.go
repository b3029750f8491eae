// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/runtime"
)

// featuresType is the name under which containerd's clients know runtime-spec's features document.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// features adds to the answer of -info what of a configuration is honoured. containerd shows it to
// clients, which learn from it, for example, whether mounts can be id-mapped.
func features(_ context.Context, _ *anypb.Any, info *types.RuntimeInfo) error {
	data, err := runtime.Features()
	if err != nil {
		return err
	}
	info.Features = &anypb.Any{TypeUrl: featuresType, Value: data}
	return nil
}
