// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister/sandbox/guestapi"
	"cloister/vmm/guestimage"
)

// Where things are unless said otherwise.
const (
	guestDir     = "/usr/share/cloister/guest"
	guestCrun    = "/usr/bin/crun"
	defaultCache = "/var/cache/cloister"
	agentBinary  = "cloister-agent"
)

func runGuest(std stdio) *cobra.Command {
	return group(std, "guest", []verb{
		{"build", "make kernel and initial image from the distribution's packages", guestBuild},
		{"inspect", "list what an image holds, with versions and licences", guestInspect},
	})
}

func guestBuild(std stdio) *cobra.Command {
	c := newCommand(std, "build [--kernel distro|small] [--output FOLDER]", "Makes a guest's kernel and initial image from the distribution's packages.")
	kernel := c.Flags().String("kernel", string(guestimage.Distro), "distro, the distribution's own `kernel`, or small, built from its source")
	output := c.Flags().String("output", "", "`folder` of the image (default "+guestDir+"/<kernel>)")
	agent := c.Flags().String("agent", "", "the guest's first process, a static binary (default "+agentBinary+" of this program's installation)")
	crun := c.Flags().String("crun", guestCrun, "the guest's OCI runtime")
	cache := c.Flags().String("cache", cmp.Or(os.Getenv("CLOISTER_CACHE"), defaultCache), "`folder` for built kernels")
	jobs := c.Flags().Int("jobs", 0, "compilers to run at once (default one for each CPU)")
	quiet := c.Flags().Bool("quiet", false, "say nothing while it works")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		flavour, err := guestimage.ParseFlavour(*kernel)
		if err != nil {
			return err
		}
		if *agent == "" {
			if *agent, err = findAgent(); err != nil {
				return err
			}
		}
		opts := guestimage.Options{
			Flavour: flavour, Output: cmp.Or(*output, filepath.Join(guestDir, string(flavour))),
			Agent: *agent, Protocol: guestapi.Protocol, Crun: *crun, Cache: *cache, Jobs: *jobs,
		}
		if !*quiet {
			opts.Progress = std.err
		}
		image, err := guestimage.Build(ctx, opts)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(std.out, image.Dir)
		return err
	})
}

// findAgent looks beside this program and where it may be installed.
func findAgent() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if target, err := filepath.EvalSymlinks(self); err == nil {
		self = target
	}
	for _, file := range agentPlaces(self) {
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: not beside %s, nor in ../libexec/cloister from there: run make install, or name it with --agent", agentBinary, self)
}

// agentPlaces are those of the agent that belongs to a program: beside it as in build/, then in the
// same PREFIX and DESTDIR.
func agentPlaces(self string) []string {
	own := filepath.Dir(self)
	dirs := []string{own, filepath.Join(own, "../libexec/cloister"), "/usr/libexec/cloister", "/usr/local/libexec/cloister"}
	for i := range dirs {
		dirs[i] = filepath.Join(dirs[i], agentBinary)
	}
	return dirs
}

func guestInspect(std stdio) *cobra.Command {
	c := newCommand(std, "inspect [FOLDER...]", "Lists what guest images hold, with versions and licences: those in "+guestDir+", or those given.")
	c.withOutput("table")
	return c.runs(0, -1, func(_ context.Context, dirs []string) error {
		if len(dirs) == 0 {
			dirs = installedImages()
		}
		if len(dirs) == 0 {
			return fmt.Errorf("no guest image in %s: build one with `cloister guest build`", guestDir)
		}
		for _, dir := range dirs {
			image, err := guestimage.Open(dir)
			if err != nil {
				return err
			}
			if err := image.Verify(); err != nil {
				return err
			}
			done, err := c.emit(image.Manifest)
			if !done && err == nil {
				err = printImage(std.out, image)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func installedImages() (dirs []string) {
	for _, f := range []guestimage.Flavour{guestimage.Distro, guestimage.Small} {
		dir := filepath.Join(guestDir, string(f))
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func printImage(out io.Writer, image *guestimage.Image) error {
	m := image.Manifest
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "image\t%s\n", image.Dir)
	fmt.Fprintf(w, "flavour\t%s (%s)\n", m.Flavour, m.Arch)
	fmt.Fprintf(w, "kernel\t%s, %s, %.1f MiB\n", m.Kernel.Version, m.Kernel.Format, mib(m.Kernel.Bytes))
	fmt.Fprintf(w, "initial image\t%.1f MiB on disk (compression: %s), %.1f MiB in the guest\n", mib(m.Initrd.Bytes), m.Initrd.Compression, mib(m.Initrd.UnpackedBytes))
	fmt.Fprintf(w, "agent\t%s, protocol %d\n", m.Agent.Version, m.Agent.Protocol)
	fmt.Fprintf(w, "modules\t%d at boot, %d later\n", len(m.Modules), len(m.LateModules))
	fmt.Fprintf(w, "parameters\t%s\n", strings.Join(m.Cmdline, " "))
	fmt.Fprintf(w, "inputs\t%s\n\n", m.Inputs)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "KIND\tPACKAGE\tVERSION\tLICENCE\tALSO IN ITS SOURCE\n")
	for _, p := range m.Packages {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Kind, p.Name, p.Version, p.Licence, strings.Join(p.OtherLicences, ", "))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
