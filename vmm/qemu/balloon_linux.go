// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
)

// SetMemory asks the guest of a running machine with a Balloon to keep only so many MiB of its
// memory, and returns before it has. Its kernel shows and uses no more then. A guest that was taken
// over can take the memory back: the host's cgroup is what bounds it.
func (p *Process) SetMemory(ctx context.Context, mib int) error {
	return p.monitor.run(ctx, "balloon", map[string]any{"value": int64(mib) << 20}, nil)
}

// Memory is what the guest says that it has left, in bytes.
func (p *Process) Memory(ctx context.Context) (int64, error) {
	answer, err := p.monitor.ask(ctx, "query-balloon", nil, nil)
	if err != nil {
		return 0, err
	}
	var reply struct {
		Return struct {
			Actual int64 `json:"actual"`
		} `json:"return"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return 0, fmt.Errorf("qmp query-balloon: %w", err)
	}
	return reply.Return.Actual, nil
}
