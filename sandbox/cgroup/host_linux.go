// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup file system. A v1 host has one for each controller or set of
// them, a v2 host has one, a hybrid host has both kinds.
type hierarchy struct {
	mount       string
	unified     bool
	controllers []string // of v2: those it offers; of v1: those it is for
}

// files are the calls that a cgroup file system understands. The tests have one in memory: rules of
// the kernel such as EBUSY are played there, also for hierarchies that the test's host has not.
type files interface {
	mkdir(path string) error
	rmdir(path string) error
	read(path string) (string, error)
	write(path, value string) error
}

// realFiles are the host's own. No path is opened that a guest can change: all are below
// /sys/fs/cgroup as a rule, which root alone writes to.
type realFiles struct{}

func (realFiles) mkdir(path string) error {
	// Parents exist already as a rule, and another sandbox may make the same parent at the same
	// moment.
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (realFiles) rmdir(path string) error { return unix.Rmdir(path) }

func (realFiles) read(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// write never makes a file; the kernel takes a value in one call. A value in two parts would be two
// settings. O_CREATE is left out: on a file system that is no cgroup's it would make files and hide
// the mistake.
func (realFiles) write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// Some controllers report their error at the write, some file systems at the close: both count.
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// hierarchies finds what is mounted, by the process's own mount table, of the v1 controllers that
// are wanted. The shim's mount namespace is a slave of the host's, so it sees what the host has
// mounted.
func hierarchies(f files, wanted func(controller string) bool) ([]hierarchy, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	list, err := parseMounts(table, wanted)
	if err != nil {
		return nil, err
	}
	for i, h := range list {
		if h.unified {
			offered, err := f.read(h.mount + "/cgroup.controllers")
			if err != nil {
				return nil, err
			}
			list[i].controllers = strings.Fields(offered)
		}
	}
	return list, nil
}

// used are the v1 hierarchies in which a sandbox has a leaf: those that limit or count, and
// systemd's, so that it does not take QEMU for a part of the engine. systemd counts, and may kill
// on a restart, what is in a unit's group of that hierarchy.
func used(controller string) bool {
	return slices.Contains([]string{"memory", "cpu", "cpuacct", "cpuset", "blkio", "pids", "devices", "name=systemd"}, controller)
}

// parseMounts reads /proc/self/mountinfo (proc_pid_mountinfo(5)). The first mount of a hierarchy
// counts. Mounts whose root is not "/" show a part of a hierarchy (a bind mount of a container's),
// where a leaf's path would mean another group.
func parseMounts(table []byte, wanted func(controller string) bool) ([]hierarchy, error) {
	var out []hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	// Lines of overlays with many layers are longer than the scanner's 64 KiB.
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// Fields of a line vary in number before " - ", so the type and the options are counted
		// from there.
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		h := hierarchy{mount: unescape(left[4])}
		switch right[0] {
		case "cgroup2":
			h.unified = true
		case "cgroup":
			// The super options of v1 name its controllers, among flags such as rw.
			for o := range strings.SplitSeq(right[2], ",") {
				if wanted(o) {
					h.controllers = append(h.controllers, o)
				}
			}
			if len(h.controllers) == 0 {
				continue
			}
		default:
			continue
		}
		key := fmt.Sprint(h.unified, h.controllers)
		if !seen[key] {
			seen[key] = true
			out = append(out, h)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no cgroup file system is mounted: %w", errdefs.ErrFailedPrecondition)
	}
	return out, nil
}

// unescape reads the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
