// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/oci"
)

// FileServer says when a sandbox has a file server. It is a value of machine.file_server. The zero
// value is Always.
type FileServer string

// The values of FileServer.
const (
	Needed FileServer = "needed" // not where all files of the first container are on disks
	Always FileServer = "always"
)

// Check refuses an unknown value. The error is errdefs.ErrInvalidArgument and names the key.
func (f FileServer) Check() error {
	switch f {
	case "", Needed, Always:
		return nil
	}
	return fmt.Errorf("machine.file_server = %q: want needed or always: %w", f, errdefs.ErrInvalidArgument)
}

// ShareReason says why the sandbox of a first container needs a file server; empty: it needs none.
// A pod needs one, since its later containers are not known when it starts, and Kubernetes gives
// each of them files of the host.
func (f FileServer) ShareReason(w *oci.Workload, first Container) string {
	switch {
	case f != Needed:
		return `machine.file_server is not "needed"`
	case w.Role != oci.Single:
		return "it is a pod, whose later containers may need one"
	}
	return first.ShareReason()
}

// ShareReason says why the container needs a file server; empty: it needs none. Copied files,
// sockets and devices need none.
func (c Container) ShareReason() string {
	switch {
	case c.Pause:
		return ""
	case len(c.Rootfs.Disks) == 0:
		return "its root file system is a folder of the host: use a snapshotter that gives disks (blockfile, erofs)"
	case len(c.Volumes) > 0:
		return fmt.Sprintf("its mount at %q is a file or folder of the host", c.Volumes[0].Destination)
	}
	return ""
}

// SuitsShare refuses a container that needs the file server that its sandbox was started without:
// a machine gets none later. The error is errdefs.ErrFailedPrecondition.
func (c Container) SuitsShare(shared bool) error {
	if reason := c.ShareReason(); !shared && reason != "" {
		return fmt.Errorf("the sandbox was started without a file server, and this container needs one: %s: "+
			"set machine.file_server = %q and start the sandbox anew: %w", reason, Always, errdefs.ErrFailedPrecondition)
	}
	return nil
}
