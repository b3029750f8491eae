// SPDX-License-Identifier: Apache-2.0

package release

import (
	"cmp"
	"debug/buildinfo"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloister/vmm/guestimage"
)

// Release is what is released.
type Release struct {
	Version string
	Commit  string // of git, 40 hexadecimal digits
	Time    time.Time
	Flavour string // of the guest image
	Builder string // who has built it, a URI
}

// Part is one thing that something of the release is made of.
type Part struct {
	Kind    string // go, deb, rpm or file
	Name    string
	Version string
	Licence string // in the words of its package; empty when nothing is known
}

// id is the part's package URL, which no other part has.
func (p Part) id() string {
	name, version := strings.ReplaceAll(url.PathEscape(p.Name), "%2F", "/"), url.QueryEscape(p.Version)
	switch p.Kind {
	case "go":
		return fmt.Sprintf("pkg:golang/%s@%s", name, version)
	case "deb":
		return fmt.Sprintf("pkg:deb/debian/%s@%s", name, version)
	case "rpm":
		return fmt.Sprintf("pkg:rpm/%s@%s", name, version)
	}
	return fmt.Sprintf("pkg:generic/%s@%s", name, version)
}

// Product is a program or the guest image, and what is in it.
type Product struct {
	Name  string
	Parts []Part
}

// Programs reads what the programs in a folder were linked from. licences are those of modules, by
// path.
func Programs(folder string, licences map[string]string, names ...string) ([]Product, error) {
	var list []Product
	for _, name := range names {
		info, err := buildinfo.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		parts := []Part{{"go", "std", strings.TrimPrefix(info.GoVersion, "go"), "BSD-3-Clause"}}
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			parts = append(parts, Part{"go", m.Path, m.Version, licences[m.Path]})
		}
		list = append(list, Product{name, sorted(parts)})
	}
	return list, nil
}

// Guest reads what a guest image holds.
func Guest(folder string) (Product, error) {
	image, err := guestimage.Open(folder)
	if err != nil {
		return Product{}, err
	}
	if err := image.Verify(); err != nil {
		return Product{}, err
	}
	var parts []Part
	for _, p := range image.Manifest.Packages {
		parts = append(parts, Part{p.Kind, p.Name, strings.TrimPrefix(p.Version, "go"), p.Licence})
	}
	return Product{"guest image", sorted(parts)}, nil
}

func sorted(parts []Part) []Part {
	slices.SortFunc(parts, func(a, b Part) int { return cmp.Compare(a.id(), b.id()) })
	return slices.CompactFunc(parts, func(a, b Part) bool { return a.id() == b.id() })
}

// noticeLine is a module in NOTICE: path, version, licence.
var noticeLine = regexp.MustCompile(`(?m)^ +([a-z0-9.]+/\S+) v\S+ \(([A-Za-z0-9. -]+)\)$`)

// Notice reads the licences of modules from the file NOTICE.
func Notice(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	licences := map[string]string{}
	for _, m := range noticeLine.FindAllStringSubmatch(string(text), -1) {
		licences[m[1]] = m[2]
	}
	return licences, nil
}

// spdxName tells a licence of SPDX's list, or an expression of such, from the free words of a
// distribution's package.
var spdxName = regexp.MustCompile(`^` + oneName + `( (AND|OR) ` + oneName + `)*$`)

const oneName = `(Apache-2\.0|BSD-[23]-Clause|MIT|ISC|MPL-2\.0|CC0-1\.0|Zlib)`
