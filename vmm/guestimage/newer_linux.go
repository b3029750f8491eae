// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
)

// Newer is a package of an image of which the distribution has a newer version.
type Newer struct {
	Package string `json:"package"` // as the image has it
	Have    string `json:"have"`
	Found   string `json:"found"` // version, with the name where that differs
	// Installed: the next build takes it. Otherwise it has to be installed first.
	Installed bool `json:"installed"`
}

// Newer compares the packages of the distribution in an image, kernel and crun among them, with
// what is installed and with what the package manager's lists offer. It changes no list: what apt
// has not heard of is not found. It knows Debian's packages alone; for others it finds nothing.
func (m Manifest) Newer(ctx context.Context) ([]Newer, error) {
	d, err := readDebs(root("/"))
	if err != nil {
		return nil, err
	}
	var debs []Package
	for _, p := range m.Packages {
		if p.Kind == "deb" {
			debs = append(debs, p)
		}
	}
	if len(debs) == 0 {
		return nil, nil
	}
	offered, err := offers(ctx, debs)
	if err != nil {
		return nil, err
	}
	var list []Newer
	for _, p := range debs {
		n, err := newer(p, d.version[p.Name], offered[p.Name])
		if err != nil {
			return nil, err
		}
		if n != nil {
			list = append(list, *n)
		}
	}
	kernel, err := m.newerKernel(ctx)
	if err != nil || kernel == nil {
		return list, err
	}
	// The old kernel's package may have a newer version too; the distribution's choice is the one
	// that counts.
	list = slices.DeleteFunc(list, func(n Newer) bool { return n.Package == kernel.Package })
	return append(list, *kernel), nil
}

// newer compares one package with the installed version and the offered one; empty is none.
func newer(p Package, installed, offered string) (*Newer, error) {
	best := &Newer{Package: p.Name, Have: p.Version, Found: p.Version}
	for _, v := range []struct {
		version string
		here    bool
	}{{installed, true}, {offered, false}} {
		if v.version == "" {
			continue
		}
		later, err := later(v.version, best.Found)
		if err != nil {
			return nil, err
		}
		if later {
			best.Found, best.Installed = v.version, v.here
		}
	}
	if best.Found == p.Version {
		return nil, nil
	}
	return best, nil
}

// newerKernel asks for the distribution's kernel: a new one is a package of another name.
func (m Manifest) newerKernel(ctx context.Context) (*Newer, error) {
	if m.Flavour != Distro {
		return nil, nil
	}
	at := slices.IndexFunc(m.Packages, func(p Package) bool { return p.Kind == "deb" && slices.Contains(p.Files, KernelName) })
	if at < 0 {
		return nil, nil
	}
	k, err := newDebKernel(ctx, progress{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := m.Packages[at]
	if k.name == p.Name && k.version == p.Version {
		return nil, nil
	}
	// A build fetches it: it need not be installed.
	return &Newer{Package: p.Name, Have: p.Version, Found: k.name + " " + k.version, Installed: true}, nil
}

// offers gives the candidate versions by apt's lists.
func offers(ctx context.Context, packages []Package) (map[string]string, error) {
	if _, err := findTool("apt-cache"); errors.Is(err, exec.ErrNotFound) {
		return nil, nil // dpkg without apt offers nothing
	}
	args := []string{"policy"}
	for _, p := range packages {
		args = append(args, p.Name)
	}
	out, err := command{name: "apt-cache", args: args}.output(ctx)
	if err != nil {
		return nil, err
	}
	return parsePolicy(string(out)), nil
}

// parsePolicy reads the candidate of each package from what apt-cache policy prints. An unknown
// package and one without a candidate are left out.
func parsePolicy(text string) map[string]string {
	found, name := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, " ") {
			name = strings.TrimSuffix(line, ":")
		}
		version, isCandidate := strings.CutPrefix(strings.TrimSpace(line), "Candidate: ")
		if isCandidate && version != "(none)" {
			found[name] = version
		}
	}
	return found
}

// later compares two versions as dpkg does, by asking it: epochs, tildes and revisions have an
// order of their own.
func later(a, b string) (bool, error) {
	bin, err := findTool("dpkg")
	if err != nil {
		return false, err
	}
	err = exec.Command(bin, "--compare-versions", a, "gt", b).Run() //nolint:noctx // it ends at once
	var exit *exec.ExitError
	// dpkg says no by its status.
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare versions %q and %q: %w", a, b, err)
	}
	return true, nil
}

// String is one line for a person.
func (n Newer) String() string {
	return fmt.Sprintf("%s %s (now %s)", n.Package, n.Have, strings.TrimPrefix(n.Found, n.Package+" "))
}
