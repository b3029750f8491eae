// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// unknown stands where a package says nothing.
const unknown = "unknown"

// maxStatus bounds each of dpkg's files, in bytes.
const maxStatus = 64 << 20

// debs is what dpkg knows of the packages installed below a root. Its files are read directly,
// since the root may be another system's.
type debs struct {
	root root
	// version is by package name.
	version map[string]string
	// owner is a package's name by the path as packaged.
	owner map[string]string
}

// readDebs reads dpkg's files. A root without dpkg gives an empty table.
func readDebs(r root) (*debs, error) {
	d := &debs{root: r, version: map[string]string{}, owner: map[string]string{}}
	status, err := readBounded(r.host("/var/lib/dpkg/status"), maxStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read dpkg's status: %w", err)
	}
	for _, p := range parseStanzas(status) {
		d.version[p["Package"]] = p["Version"]
	}
	lists, err := filepath.Glob(r.host("/var/lib/dpkg/info/*.list"))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		data, err := readBounded(list, maxStatus)
		if err != nil {
			return nil, fmt.Errorf("read dpkg's lists: %w", err)
		}
		// Packages of several architectures have theirs in the file's name, as libc6:amd64.list.
		name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(list), ".list"), ":")
		for file := range strings.SplitSeq(string(data), "\n") {
			d.owner[file] = name
		}
	}
	return d, nil
}

// of returns the package that a file comes from; ok is false if none claims it. Packages may name
// /lib/x for what is now /usr/lib/x. The first of the paths that is known counts.
func (d *debs) of(paths ...string) (Package, bool) {
	for _, p := range paths {
		for _, p := range []string{p, strings.TrimPrefix(p, "/usr"), path.Join("/usr", p)} {
			if name, ok := d.owner[p]; ok {
				return d.named(name), true
			}
		}
	}
	return Package{}, false
}

// named describes an installed package.
func (d *debs) named(name string) Package {
	return debPackage(d.root, name, d.version[name])
}

// debPackage describes a package whose documentation is below the root. Without the copyright file
// the licence is "unknown".
func debPackage(r root, name, version string) Package {
	p := Package{Kind: "deb", Name: name, Version: version, Licence: unknown}
	file, err := r.resolve("/usr/share/doc/" + name + "/copyright")
	if err != nil {
		return p
	}
	data, err := readBounded(r.host(file), 4<<20)
	if err != nil {
		return p
	}
	p.Licence, p.OtherLicences = debLicences(data)
	return p
}

// debLicences reads a Debian copyright file: the licence of most files, and
// the others that parts of the source have. A file in the old free form names
// at best the common licences it refers to.
func debLicences(data []byte) (string, []string) {
	var named []string
	licence := ""
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("Format")) {
		licence, named = formalLicences(data)
	} else if named = commonLicences(string(data)); len(named) > 0 {
		licence = named[0]
	}
	slices.Sort(named)
	others := slices.DeleteFunc(slices.Compact(named), func(s string) bool { return s == licence || s == "" })
	if len(others) == 0 {
		others = nil
	}
	return cmp.Or(licence, unknown), others
}

// formalLicences reads the machine-readable form: the licence of "Files: *",
// and all there are.
func formalLicences(data []byte) (licence string, all []string) {
	for _, s := range parseStanzas(data) {
		first, _, _ := strings.Cut(s["License"], "\n")
		first = strings.Join(strings.Fields(first), " ")
		if s["Files"] == "*" && licence == "" {
			licence = first
		}
		all = append(all, first)
	}
	return licence, all
}

// commonLicences finds references to /usr/share/common-licenses in free text.
func commonLicences(text string) []string {
	const folder = "/usr/share/common-licenses/"
	var all []string
	for {
		_, rest, ok := strings.Cut(text, folder)
		if !ok {
			return all
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("-.+", r) && !alphanumeric(r) })
		if end < 0 {
			end = len(rest)
		}
		if name := strings.TrimRight(rest[:end], "."); name != "" {
			all = append(all, name)
		}
		text = rest[end:]
	}
}

// alphanumeric is of ASCII alone.
func alphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// parseStanzas reads Debian's control form: fields, one stanza after the other, empty lines
// between. A later line of a field starts with a blank. It reads dpkg's status, apt's answers and
// copyright files.
func parseStanzas(data []byte) []map[string]string {
	var out []map[string]string
	for block := range strings.SplitSeq(string(data), "\n\n") {
		s, field := map[string]string{}, ""
		for line := range strings.SplitSeq(block, "\n") {
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				if field != "" {
					s[field] += "\n" + line
				}
				continue
			}
			name, value, ok := strings.Cut(line, ":")
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			field = name
			s[field] = strings.TrimSpace(value)
		}
		if len(s) > 0 {
			out = append(out, s)
		}
	}
	return out
}
