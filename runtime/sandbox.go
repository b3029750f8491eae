// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"cloister/runtime/stdio"
	"cloister/sandbox"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/guestapi"
)

// Sandbox is what the runtime asks of a sandbox that has been started. Its methods may be called
// by any number of goroutines, and after the machine's end.
type Sandbox interface { //nolint:interfacebloat // a sandbox is one thing
	// Add makes a container's files visible in the guest and returns the guest's bundle. On an
	// error nothing of the container is left.
	Add(ctx context.Context, c sandbox.Container) (bundle string, err error)
	// Remove takes a container's files out of the guest; its task is gone. Of an unknown id it
	// removes nothing.
	Remove(ctx context.Context, id string) error
	// Sync gives the guest the network and the copied files that the engine has prepared for a
	// container that is about to start.
	Sync(ctx context.Context, id string) error
	// Halt ends the machine at once if that loses no data, and reports whether it did.
	Halt(ctx context.Context) (bool, error)
	// Destroy ends the machine and takes back everything the sandbox did.
	Destroy(ctx context.Context) error
	// Wait blocks until the machine has ended and says why.
	Wait() sandbox.End
}

// Guest is the connection with a sandbox's agent. Errors of its calls name the machine's end if
// the machine has ended.
type Guest interface {
	// Task is containerd's Task API in the guest.
	Task() taskapi.TTRPCTaskService
	// SetTime sets the guest's clock to the host's.
	SetTime(ctx context.Context) error
	// OpenStream opens the stream that a later Create or Exec names. The caller closes it.
	OpenStream(ctx context.Context, token guestapi.Token) (stdio.Stream, error)
	// Events calls handle for each event in order until the connection or ctx ends.
	Events(ctx context.Context, handle func(guestapi.Event) error) error
}

// Machine is a started sandbox: its fixed facts and its two faces, host and guest. It is not
// changed after StartSandbox has returned it, but for ended.
type Machine struct {
	ID              string                          // the name of its first container
	Pid             int                             // QEMU's, on the host
	ContainerMemory int64                           // what all containers together may use, in bytes
	Facts           map[string]string               // for people: kind of machine, kernel, image, size
	DiskIO          func() ([]cgroup.DiskIO, error) // what the machine did to the host's disks; nil: not known
	Sandbox         Sandbox
	Guest           Guest
	Trace           Trace

	ended chan struct{} // closed when the machine has ended; the runtime's
}

// StartSandbox starts a sandbox for its first container. On an error nothing is left. It returns
// when the guest has answered: its labels have been read back by then.
type StartSandbox func(ctx context.Context, cfg sandbox.Config, req sandbox.Request) (*Machine, error)

// Trace records the phases of calls: as spans, in the sandbox's record, and for crash tests, which
// kill the shim at each part that is reached. A nil function records nothing.
type Trace struct {
	Begin   func(ctx context.Context, phase string) (end func()) // times a phase of a start or a stop
	Reach   func(part string)                                    // tells that a part with an effect is over
	Started func(ctx context.Context)                            // writes down the phases after a container's start
}

// phase times a phase, until end is called.
func (t Trace) phase(ctx context.Context, name string) (end func()) {
	if t.Begin == nil {
		return func() {}
	}
	return t.Begin(ctx, name)
}

// reached tells that a part is over.
func (t Trace) reached(part string) {
	if t.Reach != nil {
		t.Reach(part)
	}
}

// started writes down the phases after a container's start.
func (t Trace) started(ctx context.Context) {
	if t.Started != nil {
		t.Started(ctx)
	}
}
