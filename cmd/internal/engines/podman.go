// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Podman is what is known of an installation of Podman.
type Podman struct {
	// Path and Text are of the file in containers.conf.d; Missing when there is none.
	Path    string
	Text    []byte
	Missing bool
	// Others are the files that Podman reads before that one, in that order.
	Others [][]byte
	// Program is the path of cloister-oci.
	Program string
}

// lists are those of containers.conf that name runtimes. A later file replaces a list as a whole,
// so that it has to repeat the others' names. Podman takes error texts as JSON only from runtimes
// of the first list, and labels files for a virtual machine for those of the second.
type lists struct {
	Engine struct {
		JSON []string `toml:"runtime_supports_json"`
		KVM  []string `toml:"runtime_supports_kvm"`
	} `toml:"engine"`
}

// Add gives the change that makes the runtimes known. Files before this one are decoded in their
// order, so the lists that are in force without it are what is extended.
func (p Podman) Add() (Change, error) {
	var l lists
	l.Engine.JSON = []string{"crun", "runc", "kata", "runsc", "krun"} // Podman's own, containers.conf(5)
	l.Engine.KVM = []string{"kata", "krun"}
	for _, text := range p.Others {
		if err := toml.Unmarshal(text, &l); err != nil {
			return Change{Path: p.Path}, fmt.Errorf("%w: a containers.conf is not valid TOML: %w", ErrConfig, err)
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, `[engine]
runtime_supports_json = %s
runtime_supports_kvm = %s

[engine.runtimes]
`, quoted(with(with(l.Engine.JSON, Runtime), ProcessRuntime)), quoted(with(l.Engine.KVM, Runtime)))
	for _, r := range runtimes() {
		fmt.Fprintf(&text, "%s = [%q]\n", r.name, beside(p.Program, r.program))
	}
	return file{p.Path, p.Text, p.Missing}.add(text.String())
}

// Remove gives the change that takes the file away.
func (p Podman) Remove() (Change, error) { return file{p.Path, p.Text, p.Missing}.remove() }
