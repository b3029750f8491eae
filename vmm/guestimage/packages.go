// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// unknown stands where a package says nothing.
const unknown = "unknown"

const maxStatus = 64 << 20

// debs is what dpkg knows of the packages installed below a root.
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
		data, err := os.ReadFile(list)
		if err != nil {
			return nil, fmt.Errorf("read dpkg's lists: %w", err)
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(list), ".list"), ":")
		for _, file := range strings.Split(string(data), "\n") {
			d.owner[file] = name
		}
	}
	return d, nil
}

// of returns the package that a file comes from; ok is false if none claims
// it. Packages may name /lib/x for what is now /usr/lib/x.
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

// debPackage describes a package whose documentation is below the root.
func debPackage(r root, name, version string) Package {
	p := Package{Kind: "deb", Name: name, Version: version, Licence: unknown}
	real, err := r.resolve("/usr/share/doc/" + name + "/copyright")
	if err != nil {
		return p
	}
	data, err := readBounded(r.host(real), 4<<20)
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
	licence := ""
	var others []string
	add := func(name string) {
		if name = strings.Join(strings.Fields(name), " "); name != "" && name != licence && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("Format")) {
		stanzas := parseStanzas(data)
		for _, s := range stanzas {
			if first, _, _ := strings.Cut(s["License"], "\n"); s["Files"] == "*" && licence == "" {
				licence = strings.TrimSpace(first)
			}
		}
		for _, s := range stanzas {
			first, _, _ := strings.Cut(s["License"], "\n")
			add(first)
		}
	} else {
		const common = "/usr/share/common-licenses/"
		rest := string(data)
		for i := strings.Index(rest, common); i >= 0; i = strings.Index(rest, common) {
			rest = rest[i+len(common):]
			end := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("-.+", r) && !alphanumeric(r) })
			if end < 0 {
				end = len(rest)
			}
			add(strings.TrimRight(rest[:end], "."))
		}
		if len(others) > 0 {
			licence, others = others[0], others[1:]
		}
	}
	if licence == "" {
		licence = unknown
	}
	slices.Sort(others)
	return licence, others
}

func alphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// parseStanzas reads Debian's control form: fields, one stanza after the
// other, empty lines between. A later line of a field starts with a blank.
func parseStanzas(data []byte) []map[string]string {
	var out []map[string]string
	for _, block := range strings.Split(string(data), "\n\n") {
		s, field := map[string]string{}, ""
		for _, line := range strings.Split(block, "\n") {
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
