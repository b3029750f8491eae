// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"
)

// Config is what a shim is, seen from containerd. Name, Serve and Delete are needed; the rest may
// be left out.
type Config struct {
	// Name is the runtime's name, such as io.containerd.cloister.v2; it is part of a socket's
	// address.
	Name string
	// Version and Revision are printed by -v and reported by -info.
	Version, Revision string

	// Serve is the daemon. It builds the services, calls Daemon.ServeTTRPC and returns after that;
	// what it returns before that call is the error of start. ctx carries the namespace and the
	// logger, and ends with a signal or Daemon.Stop.
	Serve func(ctx context.Context, d *Daemon) error

	// Delete cleans up what a task left, whether its daemon is alive or not. It runs in a process
	// of its own, within containerd's 5 seconds.
	Delete func(ctx context.Context, r Request) (Exit, error)

	// Owner gives the id and the bundle of the first task of whom a process of this host belongs
	// to, so that a task which shares that process's network goes to the same daemon; ErrNotFound
	// for nobody. It may be nil.
	Owner func(ctx context.Context, namespace string, pid int) (id, bundle string, err error)

	// Info adds to what -info answers; info has name, version and Mounts already. options may be
	// nil.
	Info func(ctx context.Context, options *anypb.Any, info *types.RuntimeInfo) error

	// Join moves the daemon, a process on this host, into a cgroup that the engine's options name.
	Join func(group string, pid int) error

	// Mounts names the rootfs mount types and transforms that the shim performs itself. The message
	// is advertised even when it is nil, because containerd asks -info once more of a shim that
	// does not advertise any.
	Mounts *types.MountCapabilities
}
