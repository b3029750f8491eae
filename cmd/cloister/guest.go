// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

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

func runGuest(ctx context.Context, std stdio, args []string) error {
	return run(ctx, "cloister guest", []verb{
		{"build", "make kernel and initial image from the distribution's packages", guestBuild},
		{"inspect", "list what an image holds, with versions and licences", guestInspect},
	}, std, args)
}

func guestBuild(ctx context.Context, std stdio, args []string) error {
	flags := flag.NewFlagSet("cloister guest build", flag.ContinueOnError)
	kernel := flags.String("kernel", string(guestimage.Distro), "distro, the distribution's own `kernel`, or small, built from its source")
	output := flags.String("output", "", "`folder` of the image (default "+guestDir+"/<kernel>)")
	agent := flags.String("agent", "", "the guest's first process, a static binary (default "+agentBinary+" beside this program or in the PATH's folders)")
	crun := flags.String("crun", guestCrun, "the guest's OCI runtime")
	cache := flags.String("cache", cmp.Or(os.Getenv("CLOISTER_CACHE"), defaultCache), "`folder` for built kernels")
	jobs := flags.Int("jobs", 0, "compilers to run at once (default one for each CPU)")
	quiet := flags.Bool("quiet", false, "say nothing while it works")
	if err := parse(flags, std, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("guest build: unexpected argument %q", flags.Arg(0))
	}
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
}

// findAgent looks beside this program and where it may be installed.
func findAgent() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Dir(self), "/usr/libexec/cloister", "/usr/local/bin", "/usr/bin"} {
		file := filepath.Join(dir, agentBinary)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: not beside %s: name it with --agent", agentBinary, self)
}

func guestInspect(_ context.Context, std stdio, args []string) error {
	flags := flag.NewFlagSet("cloister guest inspect", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print the manifest")
	if err := parse(flags, std, args); err != nil {
		return err
	}
	dirs := flags.Args()
	if len(dirs) == 0 {
		for _, f := range []guestimage.Flavour{guestimage.Distro, guestimage.Small} {
			dir := filepath.Join(guestDir, string(f))
			if _, err := os.Stat(dir); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	if len(dirs) == 0 {
		return fmt.Errorf("no guest image in %s: build it with `cloister guest build`", guestDir)
	}
	for _, dir := range dirs {
		image, err := guestimage.Open(dir)
		if err != nil {
			return err
		}
		if err := image.Verify(); err != nil {
			return err
		}
		if err := printImage(std.out, image, *asJSON); err != nil {
			return err
		}
	}
	return nil
}

func printImage(out io.Writer, image *guestimage.Image, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(image.Manifest)
	}
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
