// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"cloister/cmd/internal/engines"
	"cloister/sandbox/plan"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

func runInstall(std stdio) *cobra.Command {
	return group(std, "install", []verb{
		{"containerd", "its config for CRI and Kubernetes; ctr and nerdctl need none", installContainerd},
		{"docker", "daemon.json of Docker 23 or later", installDocker},
		{"podman", "containers.conf.d of Podman", installPodman},
		{"crio", "crio.conf.d of CRI-O", installCRIO},
		{"nerdctl", "what nerdctl needs: nothing but the shim in containerd's PATH", installNerdctl},
		{"kubernetes", "print the RuntimeClasses, with the overhead of machines", installKubernetes},
	})
}

// installer are the flags of all the engines.
type installer struct {
	command
	file, options *string
	dry, remove   *bool
}

func newInstaller(std stdio, engine, file, about string) installer {
	c := newCommand(std, engine+" [--dry-run] [--remove]",
		about+"\nDoing it again changes nothing; what else is in the file stays as it is.")
	return installer{
		command: c,
		file:    c.Flags().String("file", file, "the engine's config"),
		options: c.Flags().String("shim-config", "", "settings of cloister's own for this engine, `file`"),
		dry:     c.Flags().Bool("dry-run", false, "print what would change"),
		remove:  c.Flags().Bool("remove", false, "take away what install has put there"),
	}
}

func installContainerd(std stdio) *cobra.Command {
	c := newInstaller(std, "containerd", "/etc/containerd/config.toml",
		"Makes the runtimes \"cloister\" and \"cloister-process\" known to containerd's CRI: in a file of its own where the "+
			"config imports a folder, else as a\nblock at the config's end.")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		text, missing, err := readConfig(*c.file)
		if err != nil {
			return err
		}
		engine := engines.Containerd{Path: *c.file, Text: text, Missing: missing, Version: 3, Imported: readImports, Options: *c.options}
		major, said, err := programVersion(ctx, "containerd")
		if err != nil {
			fmt.Fprintf(std.err, "which containerd this is for is not known (%v): taken for version 2\n", err)
		} else if major < 2 {
			engine.Version = 2
		}
		var changes []engines.Change
		if *c.remove {
			changes, err = engine.Remove()
		} else {
			changes, err = engine.Add()
		}
		if err != nil {
			return fmt.Errorf("install containerd: %w", err)
		}
		if said != "" && !*c.remove {
			adviseShim(std)
		}
		return apply(std, changes, *c.dry, "systemctl restart containerd",
			after(*c.remove, "then, for Kubernetes: cloister install kubernetes | kubectl apply -f -"))
	})
}

func installDocker(std stdio) *cobra.Command {
	c := newInstaller(std, "docker", "/etc/docker/daemon.json",
		"Adds the runtimes \"cloister\" and \"cloister-process\" to Docker's daemon.json.")
	force := c.Flags().Bool("force", false, "also for a Docker that is too old, or not here")
	legacy := c.Flags().Bool("legacy", false, "by cloister-oci, for a Docker before 23, which takes OCI command lines only")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		program, err := "", error(nil)
		switch {
		case *c.remove:
		case *legacy:
			program, err = findProgram(engines.Program)
		case !*force:
			err = takesShims(ctx, std)
		}
		if err != nil {
			return fmt.Errorf("install docker: %w", err)
		}
		text, missing, err := readConfig(*c.file)
		if err != nil {
			return err
		}
		engine := engines.Docker{Path: *c.file, Text: text, Missing: missing, Options: *c.options, Program: program}
		var change engines.Change
		if *c.remove {
			change, err = engine.Remove()
		} else {
			change, err = engine.Add()
		}
		if err != nil {
			return fmt.Errorf("install docker: %w", err)
		}
		if !*c.remove {
			adviseShim(std)
		}
		return apply(std, []engines.Change{change}, *c.dry, "systemctl reload docker",
			after(*c.remove, "then: docker run --rm --runtime "+engines.Runtime+" alpine uname -r"))
	})
}

// takesShims refuses a Docker here that is known to take no shims.
func takesShims(ctx context.Context, std stdio) error {
	major, said, err := programVersion(ctx, "dockerd")
	if err != nil {
		fmt.Fprintf(std.err, "which Docker this is for is not known (%v): it must be 23 or later\n", err)
		return nil
	}
	if major < 23 {
		return fmt.Errorf("found %q, want 23 or later: older ones take no shims (--legacy makes cloister-oci known to them, "+
			"--force writes it all the same): %w", said, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func installNerdctl(std stdio) *cobra.Command {
	c := newInstaller(std, "nerdctl", "/etc/nerdctl/nerdctl.toml",
		"nerdctl takes a runtime by its type and has no setting for it: nothing is written.")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		adviseShim(std)
		fmt.Fprintln(std.out, "nothing is to be changed")
		for _, kind := range []string{engines.RuntimeType, engines.ProcessRuntimeType} {
			fmt.Fprintf(std.out, "nerdctl run --rm --runtime %s alpine uname -r\n", kind)
			fmt.Fprintf(std.out, "ctr run --rm --runtime %s docker.io/library/alpine:latest one uname -r\n", kind)
		}
		return nil
	})
}

// overheadCPU is what QEMU and its helpers use of the CPU beside the guest's: seldom more than
// this.
const overheadCPU = "100m"

func installKubernetes(std stdio) *cobra.Command {
	c := newCommand(std, "kubernetes [--pod-memory MIB] [--accel kvm|tcg] [--memory MIB] [--cpu CPU]",
		"Prints the RuntimeClasses that let a pod ask for runtimeClassName: cloister, or cloister-process for plain\n"+
			"containers. Pipe it into kubectl apply -f -\n"+
			"The overhead is the limit of a sandbox's cgroup less its containers' own. It depends on whether guests are "+
			"emulated, and a little on\n"+
			"the pod's size: run it on a node like those that the class is for, or say --accel. One class serves nodes of one kind.")
	pod := c.Flags().Int("pod-memory", 0, "`MiB` of the pods' memory limit (default the configured size of a guest whose pod has none)")
	accel := c.Flags().String("accel", "", "what the nodes offer, `kvm or tcg` (default what this host does)")
	memory := c.Flags().Int("memory", 0, "`MiB` to print instead of what is reckoned")
	cpu := c.Flags().String("cpu", overheadCPU, "CPU time a sandbox takes beside its containers, as Kubernetes writes it")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		if !regexp.MustCompile(`^[0-9]+m?$`).MatchString(*cpu) || *memory < 0 || *pod < 0 {
			return fmt.Errorf("install kubernetes: overhead of %d MiB and CPU %q for pods of %d MiB: want numbers, as 200 and 100m: %w",
				*memory, *cpu, *pod, errdefs.ErrInvalidArgument)
		}
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		if *memory == 0 {
			if *memory, err = s.overheadMiB(std, vmm.Accel(*accel), *pod); err != nil {
				return fmt.Errorf("install kubernetes: %w", err)
			}
		}
		_, err = fmt.Fprintf(std.out, `apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %s
handler: %s
overhead:
  podFixed:
    memory: %dMi
    cpu: %s
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %s
handler: %s
`, engines.Runtime, engines.Runtime, *memory, *cpu, engines.ProcessRuntime, engines.ProcessRuntime)
		return err
	})
}

// overheadMiB is what a sandbox takes beside its containers, where accel, or else this host's, runs
// its guest.
func (s *site) overheadMiB(std stdio, accel vmm.Accel, podMiB int) (int, error) {
	config := s.config
	if accel == "" {
		found, warning, err := qemu.DetectAccel(config.Machine.Accel, qemu.Host{})
		if err != nil {
			return 0, err
		}
		if accel = found; warning != "" {
			fmt.Fprintf(std.err, "%s: the overhead is that of emulated guests; --accel kvm prints that of nodes with KVM\n", warning)
		}
	} else if accel != vmm.AccelKVM && accel != vmm.AccelTCG {
		return 0, fmt.Errorf("--accel %q: want kvm or tcg: %w", accel, errdefs.ErrInvalidArgument)
	}
	return plan.OverheadMiB(config.Sizing.OnHost(runtime.NumCPU()), accel, config.Machine.Type, config.Machine.HugePages, podMiB)
}

// after is the line that follows an installation.
func after(removed bool, line string) string {
	if removed {
		return ""
	}
	return line + "\n"
}

// adviseShim warns when the engine would not find the shim.
func adviseShim(std stdio) {
	if _, err := exec.LookPath(shimBinary); err != nil {
		fmt.Fprintf(std.err, "%s is in no folder of this PATH: the engine must find it in its own: make install\n", shimBinary)
	}
}

var versionNumber = regexp.MustCompile(`\sv?(\d+)\.\d`)

// programVersion asks a program on the PATH.
func programVersion(ctx context.Context, name string) (major int, said string, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return 0, "", err
	}
	if said, err = askVersion(ctx, path, "--version"); err != nil {
		return 0, "", err
	}
	m := versionNumber.FindStringSubmatch(said)
	if m == nil {
		return 0, said, fmt.Errorf("%s says %q", path, said)
	}
	major, err = strconv.Atoi(m[1])
	return major, said, err
}

// maxConfig bounds an engine's config.
const maxConfig = 4 << 20

func readConfig(name string) (text []byte, missing bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, orRoot(err)
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s: more than %d bytes", name, maxConfig)
	}
	return text, false, err
}

func readImports(pattern string) (map[string][]byte, error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("import %q: %w", pattern, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], _, err = readConfig(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// apply writes the changes, or prints them, and says what comes next.
func apply(std stdio, changes []engines.Change, dry bool, restart, next string) error {
	done := false
	for _, change := range changes {
		if !change.Needed() {
			fmt.Fprintf(std.out, "%s: nothing is to be changed\n", change.Path)
			continue
		}
		done = true
		printChange(std.out, change)
		if dry {
			continue
		}
		if err := writeChange(change); err != nil {
			return orRoot(fmt.Errorf("write %q: %w", change.Path, err))
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(std.out, "nothing of cloister is there")
	}
	switch {
	case done && dry:
		fmt.Fprintf(std.out, "(not written: --dry-run) -> %s\n", restart)
	case done:
		fmt.Fprintf(std.out, "written -> %s\n%s", restart, next)
	}
	return nil
}

// printChange shows the lines that differ, which stand together.
func printChange(out io.Writer, c engines.Change) {
	before, after := bytes.SplitAfter(c.Before, []byte("\n")), bytes.SplitAfter(c.After, []byte("\n"))
	start := 0
	for start < len(before) && start < len(after) && bytes.Equal(before[start], after[start]) {
		start++
	}
	endB, endA := len(before), len(after)
	for endB > start && endA > start && bytes.Equal(before[endB-1], after[endA-1]) {
		endB--
		endA--
	}
	state := ""
	switch {
	case c.New:
		state = " (new)"
	case len(c.After) == 0:
		state = " (taken away)"
	}
	fmt.Fprintf(out, "%s%s, line %d:\n", c.Path, state, start+1)
	for _, side := range []struct {
		mark  string
		lines [][]byte
	}{{"- ", before[start:endB]}, {"+ ", after[start:endA]}} {
		for _, line := range side.lines {
			if len(line) > 0 {
				fmt.Fprintf(out, "%s%s\n", side.mark, strings.TrimSuffix(string(line), "\n"))
			}
		}
	}
}
