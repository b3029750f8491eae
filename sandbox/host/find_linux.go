// SPDX-License-Identifier: Apache-2.0

package host

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"

	"cloister/labels/lsm"
	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// Wanted says what is looked for. It is made of the configuration and of the first container.
type Wanted struct {
	Image    string    // folder of the guest image; empty: the installed one
	Root     string    // folder that keeps which images were verified
	Accel    vmm.Accel // configured
	NICs     int
	Sizing   oci.Sizing // configured
	ID       string     // of the sandbox
	Workload *oci.Workload
}

// About is what people ask of a sandbox, and a warning for the log.
type About struct {
	Facts   map[string]string
	Warning string
}

// Find returns the facts of this host. The configuration's part of them is left to the caller. An
// error names what is missing on the host and the remedy. Nothing has happened by then.
func Find(w Wanted) (f plan.Facts, about About, err error) {
	image, err := verified(w.Image, w.Root)
	if err != nil {
		return f, about, err
	}
	accel, warning, err := qemu.DetectAccel(w.Accel, qemu.Host{})
	if err != nil {
		return f, about, err
	}
	about = About{Warning: warning, Facts: map[string]string{
		"accel": string(accel), "kernel": image.Manifest.Kernel.Version, "image": image.Dir, "inputs": image.Manifest.Inputs,
	}}
	f = plan.Facts{
		Host: plan.Host{
			Accel: accel, Kernel: image.Kernel(), Initrd: image.Initrd(), Cmdline: image.Manifest.Cmdline,
			Small: image.Manifest.Flavour == guestimage.Small,
		},
		Sizing: w.Sizing.OnHost(runtime.NumCPU()), GuestPorts: network.GuestPorts(),
	}
	if f.Sizing.PodMemoryOpen, f.Sizing.PodCPUOpen, err = openLimits(w.Workload, w.ID); err != nil {
		return f, about, err
	}
	if f.NICs, err = addresses(w.NICs); err != nil {
		return f, about, err
	}
	f.Hostname, err = os.Hostname()
	return f, about, err
}

// verified opens the guest image in a folder, or the installed one if dir is empty, and verifies
// that it is root's and undamaged. Digests are verified once for each image; root is the folder
// that keeps which. A guest image that another user could have written would run as every guest's
// kernel.
func verified(dir, root string) (*guestimage.Image, error) {
	image, err := open(dir)
	if err != nil {
		return nil, err
	}
	return image, image.VerifyOnce(filepath.Join(root, "verified.json"))
}

// open opens the configured image, or the installed one. The small kernel's image comes first: it
// starts faster.
func open(dir string) (*guestimage.Image, error) {
	if dir != "" {
		return guestimage.Open(dir)
	}
	const installed = "/usr/share/cloister/guest"
	image, err := guestimage.Open(filepath.Join(installed, string(guestimage.Small)))
	if errors.Is(err, fs.ErrNotExist) {
		return guestimage.Open(filepath.Join(installed, string(guestimage.Distro)))
	}
	return image, err
}

// Programs are the files that will be started, as the kernel will see them. An empty name is looked
// up. Links are resolved, because what is read back of a process (/proc/PID/exe) has none. A
// configured name is not replaced by another one. Both are started as root: one that another user
// could replace is an error.
func Programs(qemu, server string) (p lsm.Programs, err error) {
	if p.QEMU, err = resolve(qemu, "qemu-system-x86_64"); err != nil {
		return p, err
	}
	p.Virtiofsd, err = resolve(server, virtiofsd.Places()...)
	return p, err
}

// resolve takes the first that can be executed.
func resolve(configured string, places ...string) (string, error) {
	if configured != "" {
		places = []string{configured}
	}
	for _, name := range places {
		path, err := sys.Program(name)
		if err == nil {
			return filepath.EvalSymlinks(path)
		}
		if errors.Is(err, errdefs.ErrPermissionDenied) { // found, and not to be trusted
			return "", err
		}
		if errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("%w: it has no execute permission: chmod 755, or set another path under [machine] in the config", err)
		}
	}
	return "", fmt.Errorf("%s: not found: install it, or set its path under [machine] in the config: %w", places[0], os.ErrNotExist)
}

// openLimits reports which limits the engine has left open in the pod's cgroup. Only the first
// container of a pod has one. The kubelet limits a pod's cgroup only where each of its containers
// has a limit.
func openLimits(w *oci.Workload, id string) (memory, cpu bool, err error) {
	if w.Role != oci.Sandbox {
		return false, false, nil
	}
	leaf, err := cgroup.Leaf(w.CgroupsPath, id)
	if err != nil {
		return false, false, err
	}
	group, err := cgroup.At(leaf)
	if err != nil {
		return false, false, err
	}
	open, err := group.PodOpen()
	return open.Memory, open.CPU, err
}

// addresses are random bytes that tell n NICs apart. They are drawn here, since plan is pure.
func addresses(n int) ([][4]byte, error) {
	out := make([][4]byte, n)
	for i := range out {
		if _, err := rand.Read(out[i][:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
