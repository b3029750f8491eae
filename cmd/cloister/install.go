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

// runInstall has a verb for each engine. None of them restarts anything: running containers are
// their owner's.
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

// installer are the flags of all the engines. --file is for another place of the config; --dry-run
// shows the change and writes nothing.
type installer struct {
	command
	file, options *string
	dry, remove   *bool
}

// newInstaller makes a verb with those flags.
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

// installContainerd is the verb containerd. Its config's form depends on containerd's major
// version, which is asked of the program on the PATH.
func installContainerd(std stdio) *cobra.Command {
	c := newInstaller(std, "containerd", "/etc/containerd/config.toml",
		"Makes the runtimes \"cloister\" and \"cloister-process\" known to containerd's CRI: in a file of its own where the "+
			"config imports a folder, else as a\nblock at the config's end.")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		text, missing, err := readConfig(*c.file)
		if err != nil {
			return err
		}
		// Imported reads the files only when Add looks at imports.
		engine := engines.Containerd{Path: *c.file, Text: text, Missing: missing, Version: 3, Imported: readImports, Options: *c.options}
		major, said, err := programVersion(ctx, "containerd")
		if err != nil {
			// Version 2 is the usual one; an unknown version must not stop an image from being
			// prepared.
			fmt.Fprintf(std.err, "containerd's version is not known (%v): assuming 2\n", err)
		} else if major < 2 {
			// containerd 1 has the runtimes under another plugin.
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
		// Only where containerd is on this host: its PATH is assumed to be this one.
		if said != "" && !*c.remove {
			adviseShim(std)
		}
		return apply(std, changes, *c.dry, "systemctl restart containerd",
			after(*c.remove, "then, for Kubernetes: cloister install kubernetes | kubectl apply -f -"))
	})
}

// installDocker is the verb docker. Docker takes shims from version 23 on; older ones know OCI
// command lines only.
func installDocker(std stdio) *cobra.Command {
	c := newInstaller(std, "docker", "/etc/docker/daemon.json",
		"Adds the runtimes \"cloister\" and \"cloister-process\" to Docker's daemon.json.")
	force := c.Flags().Bool("force", false, "also for a Docker that is too old, or not here")
	legacy := c.Flags().Bool("legacy", false, "by cloister-oci, for a Docker before 23, which takes OCI command lines only")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		// A remove asks nothing about Docker: it may be gone already.
		program, err := "", error(nil)
		switch {
		case *c.remove:
		// cloister-oci's path is written into daemon.json, so it must be here.
		case *legacy:
			program, err = findProgram(engines.Program)
		case !*force:
			err = takesShims(ctx, std)
		}
		if err != nil {
			return fmt.Errorf("install docker: %w", err)
		}
		// After the checks: a Docker that takes no shims needs no look at its config.
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

// takesShims refuses a Docker here that is known to take no shims. A Docker that is not here, or
// whose version is not understood, gets a line and no refusal.
func takesShims(ctx context.Context, std stdio) error {
	major, said, err := programVersion(ctx, "dockerd")
	if err != nil {
		fmt.Fprintf(std.err, "Docker's version is not known (%v): it must be 23 or later\n", err)
		return nil
	}
	if major < 23 {
		return fmt.Errorf("found %q, want 23 or later: older ones take no shims (--legacy makes cloister-oci known to them, "+
			"--force writes it all the same): %w", said, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// installNerdctl is the verb nerdctl. It writes nothing, and exists so that people find out that
// nothing is needed.
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

// installKubernetes is the verb kubernetes. It prints to standard output, so that the owner decides
// how it gets into the cluster.
func installKubernetes(std stdio) *cobra.Command {
	c := newCommand(std, "kubernetes [--pod-memory MIB] [--accel kvm|tcg] [--memory MIB] [--cpu CPU]",
		"Prints the RuntimeClasses that let a pod ask for runtimeClassName: cloister, or cloister-process for plain\n"+
			"containers. Pipe it into kubectl apply -f -\n"+
			"The overhead is the limit of a sandbox's cgroup less its containers' own. It depends on whether guests are "+
			"emulated, and a little on\n"+
			"the pod's size: run it on a node like those that the class is for, or say --accel. One class serves nodes of one kind.")
	pod := c.Flags().Int("pod-memory", 0, "`MiB` of the pods' memory limit (default the configured size of a guest whose pod has none)")
	accel := c.Flags().String("accel", "", "what the nodes offer, `kvm or tcg` (default what this host does)")
	memory := c.Flags().Int("memory", 0, "`MiB` to print instead of the calculated value")
	cpu := c.Flags().String("cpu", overheadCPU, "CPU time a sandbox takes beside its containers, as Kubernetes writes it")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		// The numbers go into YAML as they are; anything else could add lines to it.
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
// its guest. It is the function that sets the limit of the sandbox's cgroup on the host, so that
// Kubernetes reckons with exactly that. Too small an overhead gets whole pods killed by the host.
func (s *site) overheadMiB(std stdio, accel vmm.Accel, podMiB int) (int, error) {
	config := s.config
	if accel == "" {
		found, warning, err := qemu.DetectAccel(config.Machine.Accel, qemu.Host{})
		if err != nil {
			return 0, err
		}
		// Emulated guests need more; on a mixed cluster the node that this runs on decides.
		if accel = found; warning != "" {
			fmt.Fprintf(std.err, "%s: the overhead is that of emulated guests; --accel kvm prints that of nodes with KVM\n", warning)
		}
	} else if accel != vmm.AccelKVM && accel != vmm.AccelTCG {
		return 0, fmt.Errorf("--accel %q: want kvm or tcg: %w", accel, errdefs.ErrInvalidArgument)
	}
	// OnHost bounds a guest's CPUs by this host's; a node of another size gives another answer.
	return plan.OverheadMiB(config.Sizing.OnHost(runtime.NumCPU()), accel, config.Machine.Type, config.Machine.HugePages, podMiB)
}

// after is the line that follows an installation. After a removal nothing follows.
func after(removed bool, line string) string {
	if removed {
		return ""
	}
	return line + "\n"
}

// adviseShim warns when the engine would not find the shim. It only warns: an engine's unit may
// have another PATH.
func adviseShim(std stdio) {
	if _, err := exec.LookPath(shimBinary); err != nil {
		fmt.Fprintf(std.err, "%s is not on this PATH: the engine must find it on its own PATH: run make install\n", shimBinary)
	}
}

// versionNumber finds the major version. "containerd github.com/containerd/containerd v1.6.20" and
// "Docker version 20.10.24, build ..." both fit.
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

// maxConfig bounds an engine's config. A config is some KiB; the bound is against a wrong path,
// such as a device.
const maxConfig = 4 << 20

// readConfig reads an engine's config; one that is missing is none, since install can make it.
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

// readImports reads the files that containerd's imports name; who configures a plugin there decides
// where install may write.
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

// apply writes the changes, or prints them, and says what comes next. A change that is not needed
// is said and not written, so that install can be repeated. An error stops: files before it are
// written.
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
			// Not writable: run it as root.
			return orRoot(fmt.Errorf("write %q: %w", change.Path, err))
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(std.out, "nothing of cloister was found")
	}
	switch {
	case done && dry:
		// With --dry-run the exit status is 0 either way.
		fmt.Fprintf(std.out, "(not written: --dry-run) -> %s\n", restart)
	case done:
		fmt.Fprintf(std.out, "written -> %s\n%s", restart, next)
	}
	return nil
}

// printChange shows the lines that differ, which stand together. One piece is enough: install
// changes one place of a file.
func printChange(out io.Writer, c engines.Change) {
	before, after := bytes.SplitAfter(c.Before, []byte("\n")), bytes.SplitAfter(c.After, []byte("\n"))
	start := 0
	// Equal lines at both ends are left out, so that one sees the change alone.
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
