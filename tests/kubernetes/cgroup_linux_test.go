// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hierarchies are the folders at the top of the host's cgroups.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	names, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for i := range names {
		names[i] = filepath.Dir(names[i])
	}
	return names
}

// makeCgroups makes a cgroup for a kubelet in every hierarchy. They are taken away with all below
// them when the test ends.
func makeCgroups(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("/k8s-%d", os.Getpid())
	for _, top := range hierarchies() {
		makeCgroup(t, top, name)
		t.Cleanup(func() { removeCgroups(t, filepath.Join(top, name)) })
	}
	return name
}

// makeCgroup makes a kubelet's cgroup in one hierarchy.
func makeCgroup(t *testing.T, top, name string) {
	t.Helper()
	dir := filepath.Join(top, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, knob := range []string{"cpuset.cpus", "cpuset.mems"} { // version 1 starts without any
		data, err := os.ReadFile(filepath.Join(top, knob))
		if err != nil || filepath.Base(top) != "cpuset" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, knob), data, 0); err != nil {
			t.Fatal(err)
		}
	}
	for knob, value := range map[string]string{"cpu.shares": "3072", "cpu.weight": "300"} { // by version
		// The guests are at least three busy processes, and those beside them have no cgroup.
		if _, err := os.Stat(filepath.Join(dir, knob)); err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, knob), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// processes gives the pids in a tree of cgroups. Those of another pid namespace read as 0.
func processes(t *testing.T, dir string) string {
	t.Helper()
	var pids strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		pids.Write(data)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return pids.String()
}

// removeCgroups removes a tree of cgroups without processes.
func removeCgroups(t *testing.T, dir string) {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, dir := range slices.Backward(dirs) {
		if err := os.Remove(dir); err != nil {
			t.Errorf("cgroup left behind: %v", err)
		}
	}
}
