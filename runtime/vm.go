// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"

	"cloister/runtime/stdio"
	"cloister/sandbox"
	"cloister/sandbox/guestapi"
)

// StartVM is the StartSandbox of sandboxes of class vm.
func StartVM(ctx context.Context, cfg sandbox.Config, req sandbox.Request) (*Machine, error) {
	s, err := sandbox.Start(ctx, cfg, req)
	if err != nil {
		return nil, err
	}
	return &Machine{
		ID: s.ID(), Pid: s.Pid(), ContainerMemory: s.ContainerMemory(), Facts: s.Facts(), DiskIO: s.DiskIO,
		Sandbox: s, Guest: vmGuest{s.Guest()},
		Trace: Trace{Begin: s.Phase, Reach: s.Reached, Started: s.Note},
	}, nil
}

// vmGuest is a client whose streams are stdio's.
type vmGuest struct{ *guestapi.Client }

// OpenStream implements Guest.
func (g vmGuest) OpenStream(ctx context.Context, token guestapi.Token) (stdio.Stream, error) {
	s, err := g.Client.OpenStream(ctx, token)
	if err != nil {
		return nil, err // no typed nil
	}
	return s, nil
}
