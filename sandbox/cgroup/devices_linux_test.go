// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// opens starts a shell, has it moved, and asks which devices it can open afterwards.
func opens(t *testing.T, move func(pid int) error) (null, zero, node bool) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("read x; (: </dev/null) && echo null; (: </dev/zero) && echo zero; mknod %s/disk b 8 0 && echo node", dir)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := move(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(string(text))
	return slices.Contains(said, "null"), slices.Contains(said, "zero"), slices.Contains(said, "node")
}

// TestDevices has a real process open one device that is allowed and one that is not.
func TestDevices(t *testing.T) {
	testenv.NeedRoot(t)
	leaf := fmt.Sprintf("/cloistertest-devices-%d", os.Getpid())
	g, err := At(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(Limits{Pids: 100, Devices: []Device{{1, 3}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if null, zero, node := opens(t, g.Add); !null || zero || !node {
		t.Errorf("open of /dev/null %t, of /dev/zero %t, mknod %t, want true, false, true", null, zero, node)
	}
}

// TestDevicesOfV2 attaches the program of v2 on hosts of either kind.
func TestDevicesOfV2(t *testing.T) {
	testenv.NeedRoot(t)
	hosts, err := hierarchies(realFiles{}, used)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if !h.unified {
			continue
		}
		group := filepath.Join(h.mount, fmt.Sprintf("cloistertest-devices2-%d", os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Rmdir(group); err != nil {
				t.Error(err)
			}
		})
		if err := attachDevices(group, []Device{{1, 3}}); err != nil {
			t.Fatal(err)
		}
		null, zero, node := opens(t, func(pid int) error {
			return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0)
		})
		if !null || zero || !node {
			t.Errorf("open of /dev/null %t, of /dev/zero %t, mknod %t, want true, false, true", null, zero, node)
		}
		return
	}
	testenv.Need(t, testenv.Root, "no cgroup v2 is mounted")
}
