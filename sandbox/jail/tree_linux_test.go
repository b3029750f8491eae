// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// treed is a jail with a tree, and Landlock's rules for the same files.
func treed(t *testing.T, tree Tree, landlock bool) Jail {
	t.Helper()
	j := housed(t).SeesOnly(Config{}, tree)
	if landlock {
		j.NoNewPrivs, j.Files = true, &Files{Read: tree.Read, Devices: tree.Devices}
	}
	return j
}

// TestTreeIsAllThatAProgramSees has a shell say what it finds from its exec on: no file of the host
// but those that it was given.
func TestTreeIsAllThatAProgramSees(t *testing.T) {
	testenv.NeedRoot(t)
	for name, landlock := range map[string]bool{"alone": false, "with Landlock": true} {
		t.Run(name, func(t *testing.T) { testTree(t, landlock) })
	}
}

func testTree(t *testing.T, landlock bool) {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "v1", "image")
	if err := errors.Join(os.Mkdir(filepath.Dir(image), 0o700), os.WriteFile(image, []byte("image\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600), os.Symlink("v1", filepath.Join(dir, "link")),
		os.Symlink("../"+filepath.Base(dir)+"/link/image", filepath.Join(dir, "named"))); err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(dir, "named")
	j := treed(t, Tree{Read: []string{named}, Optional: []string{filepath.Join(dir, "missing")}, Devices: []string{"/dev/zero"}}, landlock)
	in, out := pipe(t)
	read, write := pipe(t)
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "dash"), "-c", `
		for f in /* /etc/* /usr/* /usr/bin/* /dev/* /root/* /home/* /var/* `+dir+`/* /proc/[0-9]*; do [ -e "$f" ] && echo $f; done
		read -r image <`+named+` && echo "read $image"
		echo x >/dev/null && echo "device"
		for f in /new /etc/new /usr/lib/new `+dir+`/new `+image+`; do (echo x >$f) 2>/dev/null && echo "wrote $f"; done
		echo end
		read -r x`)
	cmd.Dir, cmd.Stdin, cmd.Stdout = "/", in, write
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	var seen []string
	for text, one := "", make([]byte, 1); len(seen) == 0 || seen[len(seen)-1] != "end"; {
		if _, err := io.ReadFull(read, one); err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
		if text += string(one); one[0] == '\n' {
			seen, text = append(seen, strings.TrimSpace(text)), ""
		}
	}
	pid := cmd.Process.Pid
	if err := j.Verify(pid); err != nil {
		t.Error(err)
	}
	other, err := NewRoot(false)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.verify(pid); !errors.Is(err, ErrEscaped) {
		t.Errorf("verify of another root = %v, want %v", err, ErrEscaped)
	}
	mounts, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mounts")
	if err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	if err := ended(cmd.Wait()); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		options := strings.Split(fields[3], ",")
		device := strings.HasPrefix(fields[1], "/dev/")
		program := fields[1] == "/usr/bin/dash"
		if !slices.Contains(options, "ro") || slices.Contains(options, "nosuid") == program || slices.Contains(options, "nodev") == device {
			t.Errorf("mount %s, want it read-only, nosuid but for the program, and nodev but for devices", strings.TrimSpace(line))
		}
	}
	for _, want := range []string{"read image", "device"} {
		if !slices.Contains(seen, want) {
			t.Errorf("no %q in %q", want, seen)
		}
	}
	if !landlock { // which lets nobody list these folders
		checkSeen(t, seen, dir)
	}
}

// checkSeen compares what the shell has found with what it was given.
func checkSeen(t *testing.T, seen []string, dir string) {
	t.Helper()
	for _, want := range []string{
		dir + "/link", dir + "/named", dir + "/v1", "/etc/ld.so.cache", "/usr/lib", "/dev/null", "/dev/urandom", "/dev/zero",
	} {
		if !slices.Contains(seen, want) {
			t.Errorf("the program does not find %q", want)
		}
	}
	top, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/")
	allowed := map[string][]string{
		"/":        {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "usr", top},
		"/etc":     {"alternatives", "ld.so.cache", "ld.so.preload", "localtime"},
		"/usr":     {"bin", "lib", "lib32", "lib64", "local", "share"},
		"/usr/bin": {"dash", "sh"},
		"/dev":     {"null", "urandom", "zero"},
		dir:        {"link", "named", "v1"},
	}
	processes := 0
	for _, found := range seen {
		switch base, name := filepath.Split(found); {
		case found == "read image", found == "device", found == "end":
		case base == "/proc/":
			processes++
		case !slices.Contains(allowed[filepath.Clean(base)], name):
			t.Errorf("the program finds %s", found)
		}
	}
	if processes != 2 { // the namespace's first one, and the program
		t.Errorf("the program finds %d processes, want 2", processes)
	}
}

// TestVerifyWantsTheTree starts a process that has all of a jail but its tree.
func TestVerifyWantsTheTree(t *testing.T) {
	j := housed(t)
	cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if err := j.Verify(cmd.Process.Pid); err != nil {
		t.Errorf("without a tree: %v", err)
	}
	j = j.SeesOnly(Config{}, Tree{})
	if err := j.Verify(cmd.Process.Pid); !errors.Is(err, ErrEscaped) {
		t.Errorf("with the host's root: Verify = %v, want %v", err, ErrEscaped)
	}
}

func TestTreeRefuses(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	loop := filepath.Join(dir, "loop")
	if err := errors.Join(os.WriteFile(script, []byte("#!/bin/sh\n# A script.\n"), 0o700), os.Symlink("loop", loop)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, program string
		tree          Tree
		want          string
	}{
		{"a script", script, Tree{}, "no ELF program"},
		{"a missing file", "/bin/true", Tree{Read: []string{dir + "/missing"}}, "no such file"},
		{"a link to itself", "/bin/true", Tree{Read: []string{loop}}, "too many levels"},
		{"the host's root", "/bin/true", Tree{Read: []string{"/"}}, "is the root directory itself"},
		{"a missing device", "/bin/true", Tree{Devices: []string{"/dev/missing"}}, "no such file"},
	} {
		cmd := exec.CommandContext(t.Context(), tt.program)
		if err := treed(t, tt.tree, false).Start(cmd); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Start = %v, want %q", tt.name, err, tt.want)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := (Jail{Tree: &Tree{}}).Start(cmd); err == nil {
		t.Error("a tree without a mount namespace: no error")
	}
}
