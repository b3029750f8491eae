// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-cloister-v2 wires the parts and runs the shim. It must decide nothing:
// bootstrap has containerd's contract, package runtime the containers, and the class of a container
// is chosen in class.go.
package main

import (
	"context"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/containerd/containerd/api/types"

	"cloister/cmd/internal/config"
	"cloister/cmd/internal/stamp"
	"cloister/sandbox/background"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/clone"
	"cloister/shim/bootstrap"
)

// main runs the shim. The copier and the builder of a template are this program too, and must not
// do anything else first.
func main() {
	if clone.IsCopier(os.Args) {
		os.Exit(clone.Copier())
	}
	if background.IsBuilder(os.Args) {
		os.Exit(background.Build(os.Args, config.Load))
	}
	// Threads that enter a namespace or take a label must end; the main one never does.
	goruntime.LockOSThread()
	os.Exit(bootstrap.Main(context.Background(), bootstrap.Config{
		Name:    "io.containerd.cloister.v2",
		Version: stamp.Version,
		Serve:   serve,
		Delete:  cleanup,
		Info:    features,
		Join:    cgroup.Join,
		Owner:   owner,
		Mounts:  mounts(filepath.Base(os.Args[0])),
	}))
}

// mounts are those that containerd leaves to a shim of that name: a guest makes its own. For plain
// containers containerd makes them all. A guest makes file systems on block devices itself, so
// containerd passes images on unmounted; -info tells it so.
func mounts(shim string) *types.MountCapabilities {
	if shim == processName {
		return nil
	}
	return &types.MountCapabilities{Types: []string{"erofs", "ext4", "loop"}, Transforms: []string{"format", "mkdir", "mkfs"}}
}
