// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/sys"
)

// Nodes finds the host's node of each of a workload's block devices, by the workload's devices;
// others have an empty string. It is called before there is a machine, so that a device that is
// missing fails the start without effects. All problems are reported together.
func Nodes(w *oci.Workload) ([]string, error) {
	nodes := make([]string, len(w.Devices))
	var errs []error
	for i, d := range w.Devices {
		if d.Kind != oci.HostBlock {
			continue
		}
		var err error
		if nodes[i], err = blockNode(d.Number); err != nil {
			errs = append(errs, fmt.Errorf("linux.devices[%d] %q: %w", i, d.Path, err))
		}
	}
	return nodes, errors.Join(errs...)
}

// blockNode is the host's node of a block device: sysfs knows its name. The name that the workload
// has for it is a path of the container's, and says nothing about the host.
func blockNode(n oci.DeviceNumber) (string, error) {
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", n.Major, n.Minor))
	if err != nil {
		return "", fmt.Errorf("%s is no block device of this host: %w: name one that `lsblk` shows", n, errdefs.ErrInvalidArgument)
	}
	// sysfs writes a slash in a device's name as "!" (cciss!c0d0).
	node := filepath.Join("/dev", strings.ReplaceAll(filepath.Base(link), "!", "/"))
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return "", fmt.Errorf("%s: stat %q: %w", n, node, err)
	}
	// /dev may have a node of that name with other numbers: it would be another disk.
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || int64(unix.Major(st.Rdev)) != n.Major || int64(unix.Minor(st.Rdev)) != n.Minor {
		return "", fmt.Errorf("%q is not %s: %w", node, n, errdefs.ErrFailedPrecondition)
	}
	return node, nil
}

// MakeFileSystem makes the image of a writable layer unless it is there: the engine leaves that to
// whoever mounts it. containerd's erofs snapshotter announces it as mkfs/ext4 with a size, in bytes
// here. ctx bounds mkfs.
func MakeFileSystem(ctx context.Context, d plan.Disk) error {
	// O_EXCL: an image that is there has the container's data.
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(d.MkfsBytes), f.Close())
	program, finding := sys.Program("mkfs.ext4")
	if err = errors.Join(err, finding); err == nil {
		// The tables are written later by the guest's kernel: making them now would write a part of
		// the disk that may never be used.
		args := []string{"-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"}
		if d.MkfsUUID != "" {
			args = append(args, "-U", d.MkfsUUID)
		}
		var out []byte
		out, err = exec.CommandContext(ctx, program, append(args, "--", d.Path)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("mkfs.ext4 %q: %w: %s", d.Path, err, out)
		}
	}
	if err != nil {
		// Half an image would be taken for a whole one the next time.
		err = errors.Join(err, os.Remove(d.Path))
	}
	return err
}
