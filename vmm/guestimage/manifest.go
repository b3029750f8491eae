// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Names of the files in an image's folder.
const (
	ManifestName = "manifest.json"
	KernelName   = "kernel"
	InitrdName   = "initrd"
)

// maxManifest bounds what is read, maxEntries each list in it.
const (
	manifestFormat = 1
	maxManifest    = 1 << 20
	maxEntries     = 4096
)

// ErrManifest is wrapped by every error about a manifest's content.
var ErrManifest = errors.New("bad guest image manifest")

// Flavour says where the image's kernel comes from.
type Flavour string

// The flavours there are.
const (
	// Distro is the distribution's own kernel package, with modules.
	Distro Flavour = "distro"
	// Small is built from the distribution's kernel source with our
	// configuration; everything is built in.
	Small Flavour = "small"
)

// ParseFlavour returns the flavour of that name, as the command line and the folder's name have it.
func ParseFlavour(name string) (Flavour, error) {
	switch f := Flavour(name); f {
	case Distro, Small:
		return f, nil
	}
	return "", fmt.Errorf("kernel flavour %q: want %s or %s", name, Distro, Small)
}

// Format is what kind of file the kernel is.
type Format string

// The formats there are. QEMU starts a Vmlinux by its PVH entry.
const (
	BzImage Format = "bzImage"
	Vmlinux Format = "vmlinux"
)

// Manifest says what an image is made of.
type Manifest struct {
	// Format is the version of this file's form: 1.
	Format  int     `json:"format"`
	Flavour Flavour `json:"flavour"`
	// Arch is the machine's architecture in Go's words.
	Arch   string `json:"arch"`
	Kernel Kernel `json:"kernel"`
	Initrd Initrd `json:"initrd"`
	Agent  Agent  `json:"agent"`
	// Packages are sorted by kind and name.
	Packages []Package `json:"packages"`
	// Modules are paths in the initial image in load order: what the agent
	// loads before it greets the host, and what it may load after that.
	Modules     []string `json:"modules"`
	LateModules []string `json:"late_modules"`
	// Cmdline are parameters that this kernel wants on its line, in addition to
	// what every guest's kernel gets.
	Cmdline []string `json:"cmdline"`
	// Inputs is a SHA-256 over everything the image was built from.
	Inputs string `json:"inputs"`
}

// Kernel describes the kernel's file.
type Kernel struct {
	// Version is what uname says in the guest.
	Version string `json:"version"`
	Format  Format `json:"format"`
	SHA256  string `json:"sha256"`
	Bytes   int64  `json:"bytes"`
}

// Initrd describes the initial image's file.
type Initrd struct {
	Compression string `json:"compression"`
	SHA256      string `json:"sha256"`
	Bytes       int64  `json:"bytes"`
	// UnpackedBytes is what the archive takes in the guest's memory.
	UnpackedBytes int64 `json:"unpacked_bytes"`
}

// Agent describes the guest's first process.
type Agent struct {
	Version string `json:"version"`
	// Protocol is the version of the contract it speaks, 0 if not known.
	Protocol int    `json:"protocol"`
	SHA256   string `json:"sha256"`
}

// Package is one package that something in the image comes from.
type Package struct {
	// Kind is deb, rpm, go or file.
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Licence is the main one in the package's own words, or "unknown".
	Licence string `json:"licence"`
	// OtherLicences are named for parts of the package's source.
	OtherLicences []string `json:"other_licences,omitempty"`
	// Files are the paths in the image that come from it.
	Files []string `json:"files,omitempty"`
}

// ParseManifest reads and checks a manifest. Errors wrap ErrManifest. Unknown fields are refused:
// they come from another version of cloister, whose meaning is not known here.
func ParseManifest(data []byte) (Manifest, error) {
	if len(data) > maxManifest {
		return Manifest{}, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrManifest, len(data), maxManifest)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, fmt.Errorf("%w: data after its end", ErrManifest)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return m, nil
}

// encode returns the manifest's file. What Open would refuse is not written.
func (m Manifest) encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(data, '\n'), nil
}

// validate checks every word of a manifest that goes elsewhere: versions into output, parameters
// onto a kernel's line, paths to the agent.
func (m Manifest) validate() error {
	if m.Format != manifestFormat {
		return fmt.Errorf("format %d, want %d: run: cloister guest build", m.Format, manifestFormat)
	}
	if _, err := ParseFlavour(string(m.Flavour)); err != nil {
		return err
	}
	if m.Kernel.Format != BzImage && m.Kernel.Format != Vmlinux {
		return fmt.Errorf("kernel format %q: want %s or %s", m.Kernel.Format, BzImage, Vmlinux)
	}
	for name, sum := range map[string]string{
		"kernel": m.Kernel.SHA256, "initrd": m.Initrd.SHA256, "agent": m.Agent.SHA256, "inputs": m.Inputs,
	} {
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			return fmt.Errorf("%s: %q is no SHA-256", name, sum)
		}
	}
	if m.Kernel.Bytes <= 0 || m.Initrd.Bytes <= 0 || m.Initrd.UnpackedBytes < 0 {
		return errors.New("kernel and initrd want a size")
	}
	for name, word := range map[string]string{
		"arch": m.Arch, "kernel version": m.Kernel.Version, "agent version": m.Agent.Version,
		"compression": m.Initrd.Compression,
	} {
		if !isPlainWord(word) {
			return fmt.Errorf("%s: %q is no plain word", name, word)
		}
	}
	if len(m.Packages) > maxEntries {
		return fmt.Errorf("%d packages, at most %d allowed", len(m.Packages), maxEntries)
	}
	for _, p := range m.Cmdline {
		if !parameter.MatchString(p) {
			return fmt.Errorf("cmdline: %q is no plain kernel parameter", p)
		}
	}
	return validateModules(slices.Concat(m.Modules, m.LateModules))
}

// isPlainWord says whether a word looks like a version. It keeps them printable and short. The
// length is not in the expression, which would repeat its part that often in every shim.
func isPlainWord(word string) bool { return len(word) <= maxWord && plainWord.MatchString(word) }

const maxWord = 128

var plainWord = regexp.MustCompile(`^[A-Za-z0-9(][A-Za-z0-9()._+~:-]*$`)

// parameter is a kernel parameter without blanks or quotes, which would make several of one.
var parameter = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(=[A-Za-z0-9_.,:/-]*)?$`)

// validateModules checks the lists that the agent reads one path a line.
func validateModules(paths []string) error {
	if len(paths) > maxEntries {
		return fmt.Errorf("%d modules, at most %d allowed", len(paths), maxEntries)
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.ContainsAny(p, "\n\x00") {
			return fmt.Errorf("module %q: want a clean absolute path", p)
		}
	}
	return nil
}
