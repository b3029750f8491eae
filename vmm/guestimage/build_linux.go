// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// imageRecipe is part of every image's digest: change it when the same inputs
// shall give other bytes.
const imageRecipe = "4"

// MaxInitrd is the most an initial image may have on disk, in bytes. It is unpacked into the
// guest's memory before anything else runs; vmm.MinMemoryMiB is for an image of this size.
const MaxInitrd = 32 << 20

// crunPath is where the guest's OCI runtime is in the image.
const crunPath = "/usr/bin/crun"

// Options say what Build makes and from what. Flavour, Output, Agent, Crun and Cache are required.
type Options struct {
	// Flavour is Distro or Small.
	Flavour Flavour
	// Output is the image's folder. An image already there is replaced. Sandboxes that run on the
	// old one keep its files open and are not disturbed.
	Output string
	// Agent is the guest's first process, a static Go binary.
	Agent string
	// Protocol is written down as the agent's version of the contract.
	Protocol int
	// Crun is the guest's OCI runtime, a path below Root.
	Crun string
	// Root is where the distribution's packages are installed; "" means "/".
	Root string
	// Cache is a folder for what takes long to make, found by its inputs.
	Cache string
	// Jobs is how many compilers run at once; 0 means one for each CPU.
	Jobs int
	// Progress is told what is being done, a line for each step; nil for none.
	Progress io.Writer
	// Count is called some times a second while a kernel is compiled: done of about so many files.
	// The last call, also after an error, has done == about. With nil, Progress has lines instead.
	Count func(done, about int)
	// Try is called with a fresh image whose digests are right, before it takes the place of the
	// one at Output. An error keeps the old one. nil for no more checks.
	Try func(context.Context, *Image) error
}

// progress tells a person what is being done.
type progress struct{ w io.Writer }

// say writes one line, or nothing where nobody listens. An error of the writer is no error of the
// build.
func (p progress) say(format string, args ...any) {
	if p.w != nil {
		_, _ = fmt.Fprintf(p.w, "guest image: "+format+"\n", args...)
	}
}

// Build makes kernel and initial image and puts them into opts.Output in one step. When an image
// from the same inputs is there already it is left alone. It may be killed at any time: the image
// at Output is the old one or the new one, and the next build removes what was left. Two builds of
// one folder take turns. ctx ends the tools that it runs.
func Build(ctx context.Context, opts Options) (*Image, error) {
	log := progress{opts.Progress}
	if opts.Root == "" {
		opts.Root = "/"
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	m, err := opts.maker(ctx, log)
	if err != nil {
		return nil, err
	}
	return opts.build(ctx, m, log)
}

// build gathers everything before it takes the folder's lock, since making a kernel takes minutes.
func (o Options) build(ctx context.Context, m maker, log progress) (*Image, error) {
	agent, err := inspectAgent(ctx, o.Agent, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	c, err := gather(ctx, root(o.Root), o.Crun)
	if err != nil {
		return nil, err
	}
	k, err := kernel(ctx, o.Cache, m, log)
	if err != nil {
		return nil, err
	}
	parent, base, err := o.place()
	if err != nil {
		return nil, err
	}
	unlock, err := lockPlace(ctx, filepath.Join(parent, ".lock"), func() { log.say("another build writes below %s: waiting", parent) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeUnfinished(parent, base); err != nil {
		return nil, err
	}
	inputs := o.inputs(k, agent, c)
	// Compared under the lock: another build may have written it meanwhile. A damaged image is made
	// anew, whatever its manifest says.
	if i, err := Open(o.Output); err == nil && i.Manifest.Inputs == inputs && i.Verify() == nil {
		log.say("%s is up to date", o.Output)
		return i, nil
	}
	log.say("packing the initial image")
	return o.write(ctx, k, agent, c, inputs, log)
}

// place makes the folder that holds the image's, and gives both names.
func (o Options) place() (parent, base string, err error) {
	dir, err := filepath.Abs(o.Output)
	if err == nil {
		err = makeDirs(filepath.Dir(dir))
	}
	if err != nil {
		return "", "", fmt.Errorf("guest image: %w", err)
	}
	return filepath.Dir(dir), filepath.Base(dir), nil
}

// freshPattern names the folders of images that are being written. The dash keeps the names of two
// flavours apart: the one's pattern must not match the other's. The dot hides them from people.
func freshPattern(base string) string { return "." + base + "-*" }

// removeUnfinished removes what killed builds have left. The caller holds the folder's lock, so no
// folder of the pattern is in use.
func removeUnfinished(parent, base string) error {
	left, err := filepath.Glob(filepath.Join(parent, freshPattern(base)))
	if err != nil {
		return fmt.Errorf("guest image: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("guest image: left by a build that was killed: %w", err)
		}
	}
	return nil
}

// validate refuses options with a path missing, before anything is made.
func (o Options) validate() error {
	if _, err := ParseFlavour(string(o.Flavour)); err != nil {
		return err
	}
	for name, value := range map[string]string{"output": o.Output, "agent": o.Agent, "crun": o.Crun, "cache": o.Cache} {
		if value == "" {
			return fmt.Errorf("guest image: no path for %s given", name)
		}
	}
	return nil
}

// maker chooses who makes the kernel: for Small the source package, for Distro the distribution's
// package, or an installed kernel on a system without apt.
func (o Options) maker(ctx context.Context, log progress) (maker, error) {
	if o.Flavour == Small {
		return smallKernel{root: root(o.Root), jobs: o.Jobs, log: log, count: o.Count}, nil
	}
	deb, err := newDebKernel(ctx, log)
	if errors.Is(err, fs.ErrNotExist) {
		return newHostKernel(root(o.Root))
	}
	return deb, err
}

// inputs is a digest over everything the image depends on: what is packed, by content, and the
// packages' names, versions and licences, which the manifest repeats.
func (o Options) inputs(k kernelSet, a agentBinary, c content) string {
	words := []string{imageRecipe, string(o.Flavour), runtime.GOARCH, k.digest, a.sum, fmt.Sprint(o.Protocol)}
	for _, f := range c.files {
		sum := sha256.Sum256(f.data)
		words = append(words, f.name, hex.EncodeToString(sum[:]))
	}
	for _, p := range slices.Concat(c.packages, a.modules, []Package{k.Package}) {
		words = append(words, fmt.Sprint(p))
	}
	return digest(words...)
}

// write makes the image's three files in a new folder and swaps it in. Everything is in memory
// until then: an initial image has at most MaxInitrd bytes.
func (o Options) write(ctx context.Context, k kernelSet, a agentBinary, c content, inputs string, log progress) (_ *Image, err error) {
	t, m, err := compose(k, a, c, o.Agent)
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	if err := t.archive(&raw); err != nil {
		return nil, err
	}
	packed, compression, err := pack(raw.Bytes(), MaxInitrd)
	if err != nil {
		return nil, err
	}
	vmlinux, err := readBounded(k.path(), maxKernel)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	sum := sha256.Sum256(packed)
	m.Flavour, m.Inputs, m.Agent.Protocol = o.Flavour, inputs, o.Protocol
	m.Cmdline = kernelParameters(o.Flavour)
	m.Kernel.Bytes = int64(len(vmlinux))
	m.Initrd = Initrd{
		Compression: compression, SHA256: hex.EncodeToString(sum[:]),
		Bytes: int64(len(packed)), UnpackedBytes: int64(raw.Len()),
	}
	data, err := m.encode()
	if err != nil {
		return nil, err
	}
	if err := o.store(ctx, map[string][]byte{KernelName: vmlinux, InitrdName: packed, ManifestName: data}); err != nil {
		return nil, err
	}
	log.say("kernel %s (%s), %.1f MiB; initial image %.1f MiB, %.1f unpacked", m.Kernel.Version, m.Kernel.Format,
		mib(m.Kernel.Bytes), mib(m.Initrd.Bytes), mib(m.Initrd.UnpackedBytes))
	return Open(o.Output)
}

// mib is for people.
func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// store writes files into a fresh folder beside the image's, tries the image that they are, and
// swaps the two. The caller holds the lock of the folder above. The fresh folder is beside the
// image's because a rename does not leave a file system. Files are synced before the swap: after a
// power cut the new name must not lead to empty files.
func (o Options) store(ctx context.Context, files map[string][]byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("guest image: %w", err)
		}
	}()
	parent, base, err := o.place()
	if err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, freshPattern(base))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(fresh)) }()
	// MkdirTemp makes it 0700, and QEMU runs as a user of its own.
	if err := os.Chmod(fresh, publicDir); err != nil {
		return err
	}
	for name, data := range files {
		if err := writeSynced(filepath.Join(fresh, name), data); err != nil {
			return err
		}
	}
	image, err := Open(fresh)
	if err == nil {
		err = image.Verify()
	}
	if err == nil && o.Try != nil {
		err = o.Try(ctx, image)
	}
	if err != nil {
		return fmt.Errorf("the new image is not used: %w", err)
	}
	return errors.Join(swapIn(fresh, filepath.Join(parent, base)), syncFolder(parent))
}

// content is what goes into every image beside agent and modules.
type content struct {
	files    []contentFile
	packages []Package
}

// contentFile is one file, by its path in the image.
type contentFile struct {
	name string
	data []byte
}

// gather reads the OCI runtime and the libraries it needs, and says which packages they come from.
// All of it comes from the distribution, so that the distribution's security updates reach guests
// with the next build.
func gather(ctx context.Context, r root, crun string) (content, error) {
	program, err := r.resolve(crun)
	if err != nil {
		return content{}, fmt.Errorf("crun: %w: install the package crun", err)
	}
	libs, err := closure(r, program)
	if err != nil {
		return content{}, fmt.Errorf("crun: %w", err)
	}
	packages, err := readDebs(r)
	if err != nil {
		return content{}, err
	}
	var c content
	owners := map[string]*Package{}
	for _, l := range append([]library{{name: crunPath, asked: crun, real: program}}, libs...) {
		data, err := readBounded(r.host(l.real), maxModule)
		if err != nil {
			return content{}, fmt.Errorf("%s: %w", l.name, err)
		}
		name := imagePath(l)
		// A stand-in comes from no package, and so has no licence of one to name.
		if l.instead != nil {
			c.files = append(c.files, contentFile{name: name, data: l.instead})
			continue
		}
		c.files = append(c.files, contentFile{name: name, data: data})
		// dpkg knows a library by its file or by the link that the loader looks for.
		p, ok := packages.of(l.real, l.asked)
		if !ok {
			p = rpmPackage(ctx, r.host(l.real), path.Base(l.name), unknown)
		}
		if owners[p.Name] == nil {
			owners[p.Name] = &p
		}
		owners[p.Name].Files = append(owners[p.Name].Files, name)
	}
	for _, p := range owners {
		c.packages = append(c.packages, *p)
	}
	slices.SortFunc(c.packages, comparePackages)
	return c, nil
}

// comparePackages is the manifest's order.
func comparePackages(a, b Package) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// imagePath is where a library goes: the folder it was found in, which the loader knows. The image
// has only the merged /usr. The loader's own path is in the program and must be there exactly.
func imagePath(l library) string {
	if l.name == crunPath {
		return crunPath
	}
	if strings.HasPrefix(l.asked, "/usr/") {
		return l.asked
	}
	return path.Join("/usr", l.asked)
}
