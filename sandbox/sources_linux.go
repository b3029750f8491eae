// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"cloister/oci"
)

// checkSources refuses what cannot be bound into a guest, or handed to it. It is asked before a machine is started for the workload, and has
// no effect.
func checkSources(c Container, o oci.Options) error {
	w := c.Workload
	if w.Role == oci.Sandbox {
		return nil // nothing runs on the first container's files
	}
	var errs []error
	for field, list := range map[string][]string{"sockets": o.Sockets, "watch": o.Watch} {
		for _, name := range list {
			if !filepath.IsAbs(name) {
				errs = append(errs, fmt.Errorf("workloads.%s: %q is not an absolute path: %w", field, name, errdefs.ErrInvalidArgument))
			}
		}
	}
	for i, m := range w.Mounts {
		if m.Kind != oci.BindMount || m.Purpose == oci.SharedMemory {
			continue
		}
		source := c.absolute(m.Source)
		if reason := unfit(source, o.Sockets); reason != "" {
			errs = append(errs, fmt.Errorf("mounts[%d].source = %q, for %q: %s: %w", i, source, m.Destination, reason, errdefs.ErrInvalidArgument))
		} else if err := mappable(source, m); err != nil {
			errs = append(errs, fmt.Errorf("mounts[%d].uidMappings, of %q for %q: %w", i, source, m.Destination, err))
		}
	}
	if err := mappableRootfs(c.Rootfs); err != nil {
		errs = append(errs, fmt.Errorf("rootfs: %w", err))
	}
	for i, d := range w.Devices {
		if d.Kind != oci.HostBlock {
			continue
		}
		if _, err := blockNode(d.Number); err != nil {
			errs = append(errs, fmt.Errorf("linux.devices[%d] %q: %w", i, d.Path, err))
		}
	}
	return errors.Join(errs...)
}

// unfit says why a file of the host cannot be shared with a guest, and what to do; "" for one that can.
func unfit(source string, sockets []string) string {
	info, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return "does not exist on the host: make it first, or take the mount out"
	}
	if err != nil {
		return err.Error()
	}
	switch t := info.Mode().Type(); {
	case t == 0, t == os.ModeDir:
		return ""
	case t == os.ModeSocket && allowed(source, sockets):
		return ""
	case t == os.ModeSocket:
		return "is a socket, and whoever listens there would have a guest as its client: list it under workloads.sockets in cloister's configuration, or use a network address"
	case t&os.ModeDevice != 0:
		return "is a device: name it under linux.devices (--device) instead of binding it"
	case t == os.ModeNamedPipe:
		return "is a FIFO, whose other end would be in another kernel: use a network address, or a process in the same pod"
	default:
		return "is neither a folder nor a file"
	}
}

// allowed says whether a file, or a folder that it is below, is in the list, whatever names links give them.
func allowed(file string, list []string) bool {
	_, err := listed(file, list)
	return err == nil
}

// listed gives the name, without links, of a file that is allowed.
func listed(file string, list []string) (string, error) {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(list, func(name string) bool {
		name, err := filepath.EvalSymlinks(name)
		return err == nil && (file == name || strings.HasPrefix(file, strings.TrimSuffix(name, "/")+"/"))
	}) {
		return "", fmt.Errorf("%q is not listed in cloister's configuration: %w", file, errdefs.ErrPermissionDenied)
	}
	return file, nil
}

// isSocket says whether a mount's source is one.
func isSocket(source string) bool {
	info, err := os.Stat(source)
	return err == nil && info.Mode().Type() == os.ModeSocket
}
