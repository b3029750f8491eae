// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-cloister-v2 wires the parts and runs the shim.
package main

import (
	"context"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/containerd/containerd/api/types"

	"cloister/cmd/internal/config"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/clone"
	"cloister/shim/bootstrap"
)

func main() {
	if clone.IsCopier(os.Args) {
		os.Exit(clone.Copier())
	}
	// Threads that enter a namespace or take a label must end; the main one never does.
	goruntime.LockOSThread()
	os.Exit(bootstrap.Main(context.Background(), bootstrap.Config{
		Name:    "io.containerd.cloister.v2",
		Version: config.Version,
		Serve:   serve,
		Delete:  cleanup,
		Info:    features,
		Join:    cgroup.Join,
		Owner:   owner,
		Mounts:  mounts(filepath.Base(os.Args[0])),
	}))
}

// mounts are those that containerd leaves to a shim of that name: a guest makes its own. For plain
// containers containerd makes them all.
func mounts(shim string) *types.MountCapabilities {
	if shim == processName {
		return nil
	}
	return &types.MountCapabilities{Types: []string{"erofs", "ext4", "loop"}, Transforms: []string{"format", "mkdir", "mkfs"}}
}
