// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"path"
	"slices"
	"strings"
)

// late is a module of the image that is not loaded at boot: a line PATH|NEED...|NAME... of the
// list. Names are the patterns by which the kernel asks for it.
type late struct {
	path         string
	needs, names []string
}

// parseLate reads the list. Other lines are left out: the image was made by the same build.
func parseLate(text string) []late {
	var all []late
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(f) == 3 {
			all = append(all, late{path: f[0], needs: strings.Fields(f[1]), names: strings.Fields(f[2])})
		}
	}
	return all
}

// name is what modprobe calls the module.
func (l late) name() string {
	name, _, _ := strings.Cut(path.Base(l.path), ".ko")
	return underscored(name)
}

// wanted gives the files of the modules that a name of the kernel's means, each after those that it
// needs. The kernel asks by a module's own name or by an alias.
func wanted(all []late, name string) []string {
	name = underscored(name)
	byName := map[string]late{}
	for _, l := range all {
		byName[l.name()] = l
	}
	var files []string
	add := func(l late) {
		if l.path != "" && !slices.Contains(files, l.path) {
			files = append(files, l.path)
		}
	}
	for _, l := range all {
		means := l.name() == name || slices.ContainsFunc(l.names, func(pattern string) bool {
			matched, err := path.Match(underscored(pattern), name)
			return matched && err == nil
		})
		if !means {
			continue
		}
		for _, need := range l.needs {
			add(byName[need])
		}
		add(l)
	}
	return files
}

// underscored writes a name as the kernel's own modules are: dashes and underscores are the same
// but for those of a pattern's brackets.
func underscored(name string) string {
	if strings.Contains(name, "[") {
		return name
	}
	return strings.ReplaceAll(name, "-", "_")
}
