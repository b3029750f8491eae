// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"strings"
)

// CRIO is what is known of an installation of CRI-O.
type CRIO struct {
	// Path and Text are of the file in crio.conf.d; Missing when there is none.
	Path    string
	Text    []byte
	Missing bool
	// Shim and Program are the paths of the shim, which a handler of type vm starts, and of
	// cloister-oci, which one of type oci calls.
	Shim, Program string
	// OCI asks for the type oci.
	OCI bool
	// Options is the path of cloister's own configuration, when it is not the usual one; only a
	// handler of type vm has it.
	Options string
}

// Add gives the change that makes the handlers known. A handler of type oci needs a pod's first
// container, which CRI-O leaves out unless it is told not to. runtime_root is a folder of its own
// for each type: CRI-O's containers must not meet Podman's.
func (c CRIO) Add() (Change, error) {
	f := file{c.Path, c.Text, c.Missing}
	var tables []string
	if c.OCI {
		tables = append(tables, "[crio.runtime]\ndrop_infra_ctr = false\n")
	}
	for _, r := range runtimes() {
		tables = append(tables, c.handler(r))
	}
	return f.add(strings.Join(tables, "\n"))
}

// handler is the table of one runtime.
func (c CRIO) handler(r runtime) string {
	if c.OCI {
		return fmt.Sprintf(`[crio.runtime.runtimes.%s]
runtime_path = %q
runtime_type = "oci"
runtime_root = "/run/cloister-oci-crio"
`, r.name, beside(c.Program, r.program))
	}
	text := fmt.Sprintf(`[crio.runtime.runtimes.%s]
runtime_path = %q
runtime_type = "vm"
runtime_root = "/run/cloister-crio"
privileged_without_host_devices = true
`, r.name, beside(c.Shim, r.shim))
	if c.Options != "" {
		text += fmt.Sprintf("runtime_config_path = %q\n", c.Options)
	}
	return text
}

// Remove gives the change that takes the file away.
func (c CRIO) Remove() (Change, error) { return file{c.Path, c.Text, c.Missing}.remove() }
