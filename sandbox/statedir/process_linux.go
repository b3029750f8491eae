// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cloister/sys"
)

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 2 << 20

// Marked lists the processes whose environment has the line marker (see Dir.Marker), the caller
// left out. It is for a pid that was not written down: the shim was killed between the start of a
// process and Done.
func Marked(marker string) ([]sys.Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []sys.Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !hasEnviron(pid, marker) {
			continue
		}
		if p, err := sys.ProcessOf(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// MarkedOthers lists the processes that carry the mark of another sandbox than dir. The cleanup of
// one sandbox asks it, so as not to take a namespace from under another.
func MarkedOthers(dir Dir) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if mark := Mark(pid); mark != "" && mark != string(dir) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Mark is the sandbox's folder that a process's environment names (Dir.Marker); empty for none.
func Mark(pid int) string {
	for _, v := range environ(pid) {
		if folder, ok := strings.CutPrefix(v, markerName); ok {
			return folder
		}
	}
	return ""
}

func hasEnviron(pid int, line string) bool { return slices.Contains(environ(pid), line) }

// environ is a process's environment, one that cannot be read is empty. Environments of other
// users' processes are root's to read; zombies and kernel threads have none.
func environ(pid int) []string {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	return strings.Split(string(env), "\x00")
}
