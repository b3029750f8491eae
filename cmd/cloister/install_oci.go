// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"cloister/cmd/internal/engines"
)

// installPodman is the verb podman. Podman reads all files of a folder of drop-ins, so nothing of
// the owner's is changed.
func installPodman(std stdio) *cobra.Command {
	c := newInstaller(std, "podman", "/etc/containers/containers.conf.d/"+engines.DropIn,
		"Makes the runtimes \"cloister\" and \"cloister-process\" known to Podman, by a file of its own beside containers.conf.")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		text, missing, err := readConfig(*c.file)
		if err != nil {
			return err
		}
		// Podman has no place for a runtime's arguments in its config, only on its command line.
		if *c.options != "" {
			return fmt.Errorf("install podman: --shim-config: Podman gives a runtime no arguments: podman run --runtime-flag config=%s: %w",
				*c.options, errdefs.ErrInvalidArgument)
		}
		engine := engines.Podman{Path: *c.file, Text: text, Missing: missing}
		if *c.remove {
			return c.finish(std, engine.Remove)
		}
		if engine.Program, err = findProgram(engines.Program); err == nil {
			// --remove needs neither the program nor the other files.
			engine.Others, err = containersConf(*c.file)
		}
		if err != nil {
			return fmt.Errorf("install podman: %w", err)
		}
		return c.finish(std, engine.Add, "then: podman run --rm --runtime "+engines.Runtime+" alpine uname -r")
	})
}

// containersConf reads the files that Podman reads before the one named. The later file wins, and a
// list in it replaces the earlier list as a whole: the lists of these files are what ours must
// repeat.
func containersConf(own string) ([][]byte, error) {
	folder := filepath.Dir(own)
	beside, err := filepath.Glob(filepath.Join(folder, "*.conf"))
	if err != nil {
		return nil, err
	}
	// The distribution's file, the administrator's, then the folder of drop-ins, as in
	// containers.conf(5).
	names := []string{"/usr/share/containers/containers.conf", filepath.Join(filepath.Dir(folder), "containers.conf")}
	var all [][]byte
	for _, name := range append(names, beside...) {
		// Files behind ours replace our lists themselves; nothing can be done about it here.
		if name == own {
			break
		}
		text, _, err := readConfig(name)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, nil
}

// installCRIO is the verb crio. The handler of type vm starts the shim; type oci has conmon call
// the OCI command line.
func installCRIO(std stdio) *cobra.Command {
	c := newInstaller(std, "crio", "/etc/crio/crio.conf.d/"+engines.DropIn,
		"Makes the runtime handlers \"cloister\" and \"cloister-process\" known to CRI-O, by a file of its own in\n"+
			"crio.conf.d. The handlers are of type vm.")
	oci := c.Flags().Bool("oci", false,
		"handlers of type oci, which call cloister-oci by conmon; sets drop_infra_ctr = false for all pods")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		text, missing, err := readConfig(*c.file)
		if err != nil {
			return err
		}
		if *oci && *c.options != "" {
			return fmt.Errorf("install crio: --shim-config: only a handler of type vm has a configuration: leave --oci out: %w",
				errdefs.ErrInvalidArgument)
		}
		engine := engines.CRIO{Path: *c.file, Text: text, Missing: missing, OCI: *oci, Options: *c.options}
		if *c.remove {
			return c.finish(std, engine.Remove)
		}
		if engine.Shim, err = findProgram(shimBinary); err == nil {
			engine.Program, err = findProgram(engines.Program)
		}
		if err != nil {
			return fmt.Errorf("install crio: %w", err)
		}
		return c.finish(std, engine.Add, "systemctl restart crio", "then, for Kubernetes: cloister install kubernetes | kubectl apply -f -")
	})
}

// finish applies the change to an engine's own file of cloister's. next is what follows an
// installation: with two lines the first one is the restart.
func (c installer) finish(std stdio, change func() (engines.Change, error), next ...string) error {
	made, err := change()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	// A drop-in that is not there needs no line about a change.
	if *c.remove && !made.Needed() {
		return apply(std, nil, *c.dry, "", "")
	}
	restart := "nothing is to be restarted"
	if len(next) > 1 {
		restart, next = next[0], next[1:]
	}
	return apply(std, []engines.Change{made}, *c.dry, restart, after(*c.remove, strings.Join(next, "\n")))
}

// findProgram gives the path of a program of cloister's: beside this one, or on the PATH. The path
// is written into an engine's config, so it is absolute; beside this program comes first, as for an
// installation under another prefix.
func findProgram(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), name)
	switch _, err := os.Stat(beside); {
	case err == nil:
		return beside, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside %s nor on the PATH: run make install: %w", name, self, err)
	}
	return path, nil
}
