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
	"golang.org/x/term"

	"cloister/sandbox"
	"cloister/sandbox/guestapi"
	"cloister/vmm/guestimage"
)

// Where things are unless said otherwise. The paths are those of the packages. CLOISTER_CACHE moves
// built kernels, which take minutes to make.
const (
	guestDir     = "/usr/share/cloister/guest"
	guestCrun    = "/usr/bin/crun"
	defaultCache = "/var/cache/cloister"
	agentBinary  = "cloister-agent"
)

// runGuest has the verbs of guest images.
func runGuest(std stdio) *cobra.Command {
	return group(std, "guest", []verb{
		{"build", "make kernel and initial image from the distribution's packages", guestBuild},
		{"update", "rebuild the configured image, try it, and switch to it", guestUpdate},
		{"inspect", "list what an image holds, with versions and licences", guestInspect},
	})
}

// buildFlags are what build and update have in common. They are pointers to what cobra fills in.
type buildFlags struct {
	agent, crun, cache *string
	jobs               *int
	quiet              *bool
}

// newBuildFlags adds the flags to a verb.
func newBuildFlags(c command) buildFlags {
	first := "the guest's first process, a static binary (default " + agentBinary + " of this program's installation)"
	return buildFlags{
		agent: c.Flags().String("agent", "", first),
		crun:  c.Flags().String("crun", guestCrun, "the guest's OCI runtime"),
		cache: c.Flags().String("cache", cmp.Or(os.Getenv("CLOISTER_CACHE"), defaultCache), "`folder` for built kernels"),
		jobs:  c.Flags().Int("jobs", 0, "compilers to run at once (default one for each CPU)"),
		quiet: c.Flags().Bool("quiet", false, "say nothing while it works"),
	}
}

// options turns the flags into those of the build. The protocol is this program's: an agent with
// another one would not be understood by the shim that came with it.
func (f buildFlags) options(std stdio, flavour guestimage.Flavour, output string) (guestimage.Options, error) {
	agent := *f.agent
	if agent == "" {
		var err error
		// Without the agent there is no image; the error names the places.
		if agent, err = findAgent(); err != nil {
			return guestimage.Options{}, err
		}
	}
	opts := guestimage.Options{
		Flavour: flavour, Output: output, Agent: agent, Protocol: guestapi.Protocol, Crun: *f.crun, Cache: *f.cache, Jobs: *f.jobs,
	}
	// Progress goes to standard error; standard output has the folder alone.
	if !*f.quiet {
		opts.Progress, opts.Count = std.err, counter(std.err)
	}
	return opts, nil
}

// counter shows on a terminal how far a compile is, on one line that is drawn again; nil for what
// is no terminal.
func counter(screen io.Writer) func(done, about int) {
	f, isFile := screen.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(done, about int) { _, _ = f.WriteString(countLine(done, about)) }
}

// countLine is the line. Once all is done it is erased: the next line of progress takes its place.
func countLine(done, about int) string {
	if done == about {
		return "\r\x1b[K"
	}
	return fmt.Sprintf("\rguest image: compiling the kernel: %d of about %d files, %d%%\x1b[K", done, about, 100*done/about)
}

// guestBuild is the verb build.
func guestBuild(std stdio) *cobra.Command {
	c := newCommand(std, "build [--kernel distro|small] [--output FOLDER]",
		"Makes a guest's kernel and initial image from the distribution's packages.")
	kernel := c.Flags().String("kernel", string(guestimage.Distro),
		"distro, the distribution's own `kernel`, or small, built from its source")
	output := c.Flags().String("output", "", "`folder` of the image (default "+guestDir+"/<kernel>)")
	flags := newBuildFlags(c)
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		flavour, err := guestimage.ParseFlavour(*kernel)
		if err != nil {
			return err
		}
		// The default folder is where a start looks for it.
		opts, err := flags.options(std, flavour, cmp.Or(*output, filepath.Join(guestDir, string(flavour))))
		if err != nil {
			return err
		}
		image, err := guestimage.Build(ctx, opts)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(std.out, image.Dir)
		return err
	})
}

// updated is what an update of the image came to. Old lists sandboxes that go on with the image
// they were started with; they are not stopped.
type updated struct {
	Image   string             `json:"image"`
	Changed bool               `json:"changed"`
	Kernel  string             `json:"kernel"`
	Agent   string             `json:"agent"`
	Old     []string           `json:"sandboxesOnOldImage"` // NAMESPACE/ID
	Newer   []guestimage.Newer `json:"newer"`               // what the distribution still has newer
}

// guestUpdate is the verb update. A new image that does not boot never takes the place of the old
// one.
func guestUpdate(std stdio) *cobra.Command {
	c := newCommand(std, "update [--try=false]",
		"Rebuilds the configured guest image from the distribution's packages that are installed, boots it\n"+
			"once, and puts it in place of the old one in one step. On an error the old one stays. Sandboxes\n"+
			"that run keep theirs: they are listed.")
	c.withOutput("table")
	try := c.Flags().Bool("try", true, "boot the new image once before it is used; needs root")
	flags := newBuildFlags(c)
	update := func(ctx context.Context) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		// Asked before the build, which replaces the folder.
		before, flavour, err := s.configuredImage()
		if err != nil {
			return err
		}
		opts, err := flags.options(std, flavour, s.config.Guest.Image)
		if err != nil {
			return err
		}
		// The trial boots a sandbox and mounts its share, hence the mount namespace of its own
		// below.
		if *try {
			opts.Try = s.tryImage(opts.Progress)
		}
		// The build exchanges the folders in one step, after the trial.
		image, err := guestimage.Build(ctx, opts)
		if err != nil {
			return orRoot(err)
		}
		u, err := s.updated(ctx, image, before)
		if err != nil {
			return err
		}
		if done, err := c.emit(u); done {
			return err
		}
		return printUpdated(std.out, u)
	}
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		// Without the trial nothing is mounted, and no root is needed.
		if !*try {
			return update(ctx)
		}
		return withOwnMounts(ctx, std, func() error { return update(ctx) })
	})
}

// configuredImage gives the digest of the image's inputs, empty for one that cannot be read, and
// its flavour, which the folder's name tells then. A damaged image can be rebuilt so: its manifest
// is unreadable, and its folder is called small or distro by convention.
func (s *site) configuredImage() (inputs string, flavour guestimage.Flavour, err error) {
	image, err := guestimage.Open(s.config.Guest.Image)
	if err == nil {
		return image.Manifest.Inputs, image.Manifest.Flavour, nil
	}
	flavour, unknown := guestimage.ParseFlavour(filepath.Base(s.config.Guest.Image))
	if unknown != nil {
		return "", "", err
	}
	return "", flavour, nil
}

// tryImage boots a fresh image as the config says sandboxes are to be started. The config's class,
// accelerator and jail count: an image that boots only without them is of no use.
func (s *site) tryImage(say io.Writer) func(context.Context, *guestimage.Image) error {
	return func(ctx context.Context, image *guestimage.Image) error {
		if say != nil {
			fmt.Fprintln(say, "guest image: booting it once")
		}
		c := s.config
		c.Guest.Image = image.Dir
		return sandbox.TryImage(ctx, c)
	}
}

// updated says what has changed, by the digest of everything that went into the image.
func (s *site) updated(ctx context.Context, image *guestimage.Image, before string) (updated, error) {
	m := image.Manifest
	u := updated{Image: image.Dir, Changed: m.Inputs != before, Kernel: m.Kernel.Version, Agent: m.Agent.Version, Old: []string{}}
	rows, _, err := s.rows(false, nil)
	if err != nil {
		return u, err
	}
	// A row is old when its record has another digest than the image in the folder.
	for _, r := range rows {
		if r.Image.Old {
			u.Old = append(u.Old, string(r.Namespace)+"/"+string(r.ID))
		}
	}
	u.Newer, err = m.Newer(ctx)
	return u, err
}

// printUpdated tells also what the rebuild could not take in, since a package is not installed in
// its new version.
func printUpdated(out io.Writer, u updated) error {
	word := "is up to date"
	if u.Changed {
		word = "is new"
	}
	fmt.Fprintf(out, "%s %s: kernel %s, agent %s\n", u.Image, word, u.Kernel, u.Agent)
	for _, n := range u.Newer {
		fmt.Fprintf(out, "not in it: %s\n", n)
	}
	if len(u.Old) == 0 {
		_, err := fmt.Fprintln(out, "no sandbox runs on an older image")
		return err
	}
	names := strings.Join(u.Old, "\n  ")
	_, err := fmt.Fprintf(out, "%d sandboxes run on an older image until they are restarted:\n  %s\n", len(u.Old), names)
	return err
}

// findAgent looks beside this program and where it may be installed. A link is followed first:
// /usr/local/bin may hold a link to an installation elsewhere.
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
	return "", fmt.Errorf("%s: not beside %s, nor in ../libexec/cloister from there: run make install, or pass --agent",
		agentBinary, self)
}

// agentPlaces are those of the agent that belongs to a program: beside it as in build/, then in the
// same PREFIX and DESTDIR. The order matters: an agent of another installation may speak another
// protocol.
func agentPlaces(self string) []string {
	own := filepath.Dir(self)
	dirs := []string{own, filepath.Join(own, "../libexec/cloister"), "/usr/libexec/cloister", "/usr/local/libexec/cloister"}
	for i := range dirs {
		dirs[i] = filepath.Join(dirs[i], agentBinary)
	}
	return dirs
}

// guestInspect is the verb inspect: what an image holds, with licences, for whoever has to account
// for it.
func guestInspect(std stdio) *cobra.Command {
	c := newCommand(std, "inspect [FOLDER...]",
		"Lists what guest images hold, with versions and licences: those in "+guestDir+", or those given.")
	c.withOutput("table")
	return c.runs(0, -1, func(_ context.Context, dirs []string) error {
		// No argument: those of the packages' folder.
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
			// The digests are compared first: a list of contents of a damaged image would be wrong.
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

// installedImages are those of the packages' folder.
func installedImages() (dirs []string) {
	for _, f := range []guestimage.Flavour{guestimage.Distro, guestimage.Small} {
		dir := filepath.Join(guestDir, string(f))
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// printImage prints the manifest. Sizes on disk and in the guest differ: the second one is every
// guest's memory.
func printImage(out io.Writer, image *guestimage.Image) error {
	m := image.Manifest
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "image\t%s\n", image.Dir)
	fmt.Fprintf(w, "flavour\t%s (%s)\n", m.Flavour, m.Arch)
	fmt.Fprintf(w, "kernel\t%s, %s, %.1f MiB\n", m.Kernel.Version, m.Kernel.Format, mib(m.Kernel.Bytes))
	fmt.Fprintf(w, "initial image\t%.1f MiB on disk (compression: %s), %.1f MiB in the guest\n",
		mib(m.Initrd.Bytes), m.Initrd.Compression, mib(m.Initrd.UnpackedBytes))
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

// mib is a size in MiB.
func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
