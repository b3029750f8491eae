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

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	mount       string
	unified     bool
	controllers []string // of v2: those it offers; of v1: those it is for
}

// files are the calls that a cgroup file system understands.
type files interface {
	mkdir(path string) error
	rmdir(path string) error
	read(path string) (string, error)
	write(path, value string) error
}

type realFiles struct{}

func (realFiles) mkdir(path string) error {
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

// write never makes a file; the kernel takes a value in one call.
func (realFiles) write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// hierarchies finds what is mounted, by the process's own mount table, of the v1 controllers that
// are wanted.
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

// used are the v1 hierarchies in which a sandbox has a leaf: those that limit or
// count, and systemd's, so that it does not take QEMU for a part of the engine.
func used(controller string) bool {
	return slices.Contains([]string{"memory", "cpu", "cpuacct", "cpuset", "blkio", "pids", "devices", "name=systemd"}, controller)
}

// parseMounts reads /proc/self/mountinfo (proc_pid_mountinfo(5)). The first mount
// of a hierarchy counts.
func parseMounts(table []byte, wanted func(controller string) bool) ([]hierarchy, error) {
	var out []hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
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
