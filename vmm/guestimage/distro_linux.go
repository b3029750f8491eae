// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// debKernel takes the kernel from the distribution's package archive, without installing it on the
// host. apt checks the package against its signed lists.
type debKernel struct {
	log progress
	// name and version are the real package's, once resolved.
	name, version string
}

// dependency is one alternative of a Depends field with an exact version. The meta package names
// the real one so.
var dependency = regexp.MustCompile(`^(linux-image-[a-z0-9.+-]+)(?: \(= ([A-Za-z0-9.+~:-]+)\))?$`)

// newDebKernel resolves the cloud kernel's package by apt's lists. It gives fs.ErrNotExist on a
// system without apt or such a package. The cloud kernel lacks drivers for hardware that no guest
// has. The lists may be old; they are not refreshed here.
func newDebKernel(ctx context.Context, log progress) (*debKernel, error) {
	if _, err := findTool("apt-cache"); err != nil {
		return nil, fs.ErrNotExist
	}
	meta := "linux-image-cloud-" + runtime.GOARCH
	out, err := command{name: "apt-cache", args: []string{"show", "--no-all-versions", meta}}.output(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", meta, fs.ErrNotExist)
	}
	for _, s := range parseStanzas(out) {
		for d := range strings.SplitSeq(s["Depends"], ",") {
			m := dependency.FindStringSubmatch(strings.TrimSpace(d))
			if m == nil {
				continue
			}
			version := m[2]
			if version == "" {
				version = s["Version"]
			}
			return &debKernel{log: log, name: m[1], version: version}, nil
		}
	}
	return nil, fmt.Errorf("%s: depends on no kernel package: %w", meta, fs.ErrNotExist)
}

// inputs implements maker. A package's name and version stand for its content.
func (d *debKernel) inputs(context.Context) ([]string, error) {
	return append([]string{"deb", runtime.GOARCH, d.name, d.version}, moduleNames()...), nil
}

// make implements maker: it fetches the package, unpacks it and runs depmod, which a package does
// when it is installed.
func (d *debKernel) make(ctx context.Context, dir, work string) (kernelSet, error) {
	d.log.say("fetching %s %s", d.name, d.version)
	// apt would drop to a user who cannot write to the work folder.
	get := command{dir: work, name: "apt-get", args: []string{
		"-qq", "-o", "APT::Sandbox::User=root", "download", d.name + "=" + d.version,
	}}
	if err := get.run(ctx); err != nil {
		return kernelSet{}, fmt.Errorf("%w\nif apt's lists are old, `apt-get update` helps", err)
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(files) != 1 {
		return kernelSet{}, fmt.Errorf("%s: %d packages fetched, want 1", d.name, len(files))
	}
	tree := filepath.Join(work, "tree")
	if err := (command{name: "dpkg-deb", args: []string{"-x", files[0], tree}}).run(ctx); err != nil {
		return kernelSet{}, err
	}
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernelSet{}, fmt.Errorf("%s: %d kernels in it, want 1", d.name, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	// depmod looks below /lib alone; newer packages have /usr/lib.
	if _, err := os.Stat(filepath.Join(tree, "lib")); errors.Is(err, fs.ErrNotExist) {
		if err := os.Symlink("usr/lib", filepath.Join(tree, "lib")); err != nil {
			return kernelSet{}, fmt.Errorf("%s: %w", d.name, err)
		}
	}
	if err := (command{name: "depmod", args: []string{"-b", tree, release}}).run(ctx); err != nil {
		return kernelSet{}, err
	}
	k := kernelSet{Release: release, Format: BzImage, Package: debPackage(root(tree), d.name, d.version)}
	err = collect(ctx, &k, images[0], filepath.Join(tree, "lib/modules", release), dir)
	return k, err
}

// hostKernel takes a kernel that is installed on the host: what there is on a system without
// Debian's packages.
type hostKernel struct {
	root             root
	release, vmlinuz string
}

// newHostKernel finds the running kernel's files, or else the last installed
// one's by name.
func newHostKernel(r root) (*hostKernel, error) {
	entries, err := os.ReadDir(r.host("/lib/modules"))
	if err != nil {
		return nil, fmt.Errorf("kernel: neither a kernel package in apt's lists nor an installed one: %w", err)
	}
	var found *hostKernel
	running, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	for _, e := range entries {
		for _, file := range []string{"/boot/vmlinuz-" + e.Name(), "/lib/modules/" + e.Name() + "/vmlinuz"} {
			if st, err := os.Stat(r.host(file)); err != nil || !st.Mode().IsRegular() {
				continue
			}
			found = &hostKernel{root: r, release: e.Name(), vmlinuz: file}
			if e.Name() == strings.TrimSpace(string(running)) {
				return found, nil
			}
		}
	}
	if found == nil {
		return nil, errors.New("kernel: neither a kernel package in apt's lists nor an installed one")
	}
	return found, nil
}

// inputs implements maker. The files are read, since an installed kernel can be replaced under its
// name.
func (h *hostKernel) inputs(context.Context) ([]string, error) {
	words := []string{"host", runtime.GOARCH, h.release}
	for _, file := range []string{h.vmlinuz, "/lib/modules/" + h.release + "/modules.dep"} {
		sum, err := fileSum(h.root.host(file))
		if err != nil {
			return nil, fmt.Errorf("kernel: %w", err)
		}
		words = append(words, sum)
	}
	return append(words, moduleNames()...), nil
}

// make implements maker.
func (h *hostKernel) make(ctx context.Context, dir, _ string) (kernelSet, error) {
	packages, err := readDebs(h.root)
	if err != nil {
		return kernelSet{}, err
	}
	p, ok := packages.of(h.vmlinuz)
	if !ok {
		p = rpmPackage(ctx, h.root.host(h.vmlinuz), "linux", h.release)
	}
	k := kernelSet{Release: h.release, Format: BzImage, Package: p}
	err = collect(ctx, &k, h.root.host(h.vmlinuz), h.root.host("/lib/modules/"+h.release), dir)
	return k, err
}

// moduleNames are part of a kernel's inputs: a list that changes must give another set of modules.
// The word between has changed once, with what is kept of late ones.
func moduleNames() []string {
	return slices.Concat(bootModules(), diskModules(), []string{"late, with names"}, lateModules())
}

// collect copies a kernel and the modules the guest needs into dir and writes down in k in which
// order they load. depmod's lists are parsed here, so that the agent needs no modprobe.
func collect(ctx context.Context, k *kernelSet, image, modules, dir string) error {
	data, err := readBounded(image, maxKernel)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if err := writeFile(filepath.Join(dir, kernelFile), data); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	dep, err := readBounded(filepath.Join(modules, "modules.dep"), maxModule)
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	builtin, err := readBounded(filepath.Join(modules, "modules.builtin"), maxModule)
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	alias, err := readBounded(filepath.Join(modules, "modules.alias"), maxModule)
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	soft, err := readBounded(filepath.Join(modules, "modules.softdep"), maxModule)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel may have none
		return fmt.Errorf("kernel modules: %w", err)
	}
	table, err := parseModules(dep, builtin)
	if err != nil {
		return err
	}
	// A module that two lists need is in the first one alone: it is loaded by then.
	done := map[string]bool{}
	boot, err := table.order(bootModules(), true, done)
	if err != nil {
		return err
	}
	disks, err := table.order(diskModules(), false, done)
	if err != nil {
		return err
	}
	boot = append(boot, disks...)
	late, err := table.order(lateModules(), false, done)
	if err != nil {
		return err
	}
	k.Late = table.asked(late, parseAliases(alias), parseSoft(soft))
	return copyModules(ctx, k, modules, filepath.Join(dir, modulesDir), boot, late)
}

// copyModules copies modules into a folder, unpacked, and names those of the boot in k.
func copyModules(ctx context.Context, k *kernelSet, modules, out string, boot, late []string) error {
	if err := makeDirs(out); err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	for i, file := range slices.Concat(boot, late) {
		name := moduleName(file) + ".ko"
		data, err := readModule(ctx, filepath.Join(modules, file))
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", file, err)
		}
		if err := writeFile(filepath.Join(out, name), data); err != nil {
			return fmt.Errorf("kernel module: %w", err)
		}
		if i < len(boot) {
			k.Modules = append(k.Modules, name)
		}
	}
	return nil
}

// readModule returns a module's object, unpacked: the agent hands it to the kernel as it is. What a
// compressed file makes is bounded, as any file here. The bytes are the package's own, signature
// included.
func readModule(ctx context.Context, file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		return command{name: "xz", args: []string{"-dc", file}}.output(ctx)
	}
	data, err := readBounded(file, maxModule)
	if err != nil {
		return nil, err
	}
	var in io.Reader
	switch {
	case strings.HasSuffix(file, ".zst"):
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	case strings.HasSuffix(file, ".gz"):
		if in, err = gzip.NewReader(bytes.NewReader(data)); err != nil {
			return nil, err
		}
	default:
		return data, nil
	}
	return io.ReadAll(io.LimitReader(in, maxModule))
}
